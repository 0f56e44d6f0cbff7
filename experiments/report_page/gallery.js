"use strict";
/* Images with captions, references and attention by word; sorted and searched. */

(() => {
  const { el, byId, wordsOf } = report;
  const { runs, baseline } = report.get("report");
  const images = report.get("images");
  const AT_ONCE = 24;
  let [shown, order, drawing] = [[], [], 0];

  /** All evaluations with captions: [{run, place, step, label, name}]. */
  const choices = runs.flatMap((run, number) => run.evaluations.map((evaluation, place) => ({
    run: number, place, step: evaluation.step, name: `captions-${number}-${place}`,
    label: run.evaluations.length > 1 ? `${run.name} · ${evaluation.name}` : run.name,
  })));
  const value = ({ run, place }) => `${run} ${place}`;
  const chosen = (id) => choices.find((choice) => value(choice) === byId(id).value);

  /** The attention maps of a caption, {words, name, chunk}, or null if not computed. */
  function attention(choice, image) {
    const said = report.get(choice.name);
    if (said.words) {
      const words = said.words[image];
      return words && { words, name: `attention-${choice.run}-${choice.place}`, chunk: said.chunk };
    }
    // Another decoding of the same checkpoint with the same caption has the same attention.
    const same = choices.find((other) => {
      const there = other.run === choice.run && other.step === choice.step && report.get(other.name);
      return there?.words?.[image] && there.captions[image] === said.captions[image];
    });
    return same ? attention(same, image) : null;
  }

  async function mapsOf({ name, chunk }, image) {
    const maps = await report.load(`${name}-${Math.floor(image / chunk)}`);
    return maps[image % chunk];
  }

  function difference(image) {
    const [one, two] = shown.map((choice) => report.get(choice.name).cider[image]);
    return typeof one === "number" && typeof two === "number" ? Math.abs(one - two) : -1;
  }

  function sorted() {
    const cider = (image) => report.get(shown[0].name).cider[image];
    const all = images.ids.map((_, image) => image);
    const by = (key) => all.sort((a, b) => key(a) - key(b));
    switch (byId("order").value) {
      case "best": return by((image) => -(cider(image) ?? -1));
      case "worst": return by((image) => cider(image) ?? Infinity);
      case "different": return shown.length > 1 ? by((image) => -difference(image)) : all;
      default: return all;
    }
  }

  function matches(image, asked) {
    const texts = shown.map((choice) => report.get(choice.name).captions[image]);
    if (byId("in-references").checked) texts.push(...images.references[image]);
    const words = new Set(texts.flatMap(wordsOf));
    return asked.every((word) => words.has(word) || (word.length > 2 && [...words].some((one) => one.startsWith(word))));
  }

  async function draw() {
    const mine = ++drawing;
    if (byId("order").value === "different") chooseOther();
    byId("cards").setAttribute("aria-busy", "true");
    const [one, two] = [chosen("run"), chosen("other")];
    const wanted = two && two !== one ? [one, two] : [one];
    const needed = choices.filter((choice) => wanted.some((other) => other.run === choice.run));
    const note = byId("gallery-note");
    try {
      await Promise.all(needed.map((choice) => report.load(choice.name)));
    } catch (error) {
      if (mine !== drawing) return;
      [shown, order] = [[], []];
      note.textContent = `${error.message}: make the report again`;
      note.hidden = false;
      byId("comparison").hidden = true;
      byId("count").textContent = "";
      byId("cards").replaceChildren();
      byId("cards").setAttribute("aria-busy", "false");
      return;
    }
    if (mine !== drawing) return; // Another choice was made while this one was loading.
    shown = wanted;
    const asked = wordsOf(byId("search").value);
    order = sorted().filter((image) => matches(image, asked));
    compare();
    byId("count").textContent = `${order.length.toLocaleString("en")} of ${report.plural(images.ids.length, "image")}`;
    note.textContent = shown.some((choice) => images.ids.some((_, image) => attention(choice, image))) ? ""
      : "These captions have no attention: make the report with --attention all.";
    note.hidden = !note.textContent;
    byId("cards").replaceChildren(...(order.length ? [] : [el("p", { class: "hint" }, "no caption has all these words")]));
    grow();
    byId("cards").setAttribute("aria-busy", "false");
  }

  const swatch = (choice) => el("span", { class: "swatch", style: `background:${report.colour(runs[choice.run].variant)}` });

  /** Shows in how many of the listed images each of two runs is better. */
  function compare() {
    byId("comparison").hidden = shown.length < 2;
    if (shown.length < 2) return;
    const [one, two] = shown.map((choice) => report.get(choice.name).cider);
    const known = order.filter((image) => difference(image) >= 0);
    const counts = [[one, two], [two, one]].map(([a, b]) => known.filter((image) => a[image] > b[image]).length);
    byId("comparison").replaceChildren("By CIDEr-D ",
      ...shown.flatMap((choice, place) => [swatch(choice), el("b", {}, choice.label), ` is better in ${counts[place]}, `]),
      `and ${known.length - counts[0] - counts[1]} are equal.`);
  }

  function grow() {
    const start = document.querySelectorAll("#cards .card").length;
    const asked = wordsOf(byId("search").value);
    byId("cards").append(...order.slice(start, start + AT_ONCE).map((image) => card(image, asked)));
    // Observing again reports again whether the end of the cards is near.
    nearEnd.unobserve(byId("more"));
    nearEnd.observe(byId("more"));
  }

  const nearEnd = new IntersectionObserver((entries) => {
    const more = document.querySelectorAll("#cards .card").length < order.length;
    if (more && entries.some((entry) => entry.isIntersecting)) grow();
  }, { rootMargin: "1500px" });

  function card(image, asked) {
    const [width, height] = images.sizes[image];
    const references = images.references[image];
    const picture = el("img", {
      src: images.pictures[image], loading: "lazy", decoding: "async", width, height,
      alt: references.length ? `Picture of: ${references[0]}` : `Picture ${images.ids[image]}`,
      class: Math.max(width, height) < 160 ? "small" : "",
    });
    const stage = captionView.stage(picture);
    stage.element.style.setProperty("--ratio", width / height);
    const looked = el("figcaption", { hidden: true });
    const figure = el("figure", {}, stage.element, looked);
    // Words with and without punctuation: a tokenizer may turn "t-shirt" into "tshirt".
    const joined = references.flatMap((text) => text.split(/\s+/)).map((word) => wordsOf(word).join(""));
    const heard = new Set([...references.flatMap(wordsOf), ...joined]);
    const said = shown.map((choice, place) => saying(choice, place, image, { stage, looked, heard, asked }));
    return el("article", { class: "card", "data-image": image, "aria-label": `Image ${images.ids[image]}` },
      figure,
      el("div", { class: "texts" }, ...said,
        el("ul", { class: "references", "aria-label": "References" },
          ...references.map((text) => el("li", { dir: "auto" }, ...marked(unbroken(text), asked)))),
        el("p", { class: "id" }, images.ids[image])));
  }

  /** Keeps punctuation that stands alone, as a token, from beginning a line. */
  const unbroken = (text) => text.replace(/ (?=[.,;:!?]+( |$))/g, "\u00a0");

  /** A text with the search terms marked. */
  function marked(text, asked) {
    if (!asked.length || !byId("in-references").checked) return [text];
    return text.split(/(\s+)/).map((word) => (found(word, asked) ? el("mark", {}, word) : word));
  }

  const found = (text, asked) => wordsOf(text).some((word) =>
    asked.some((one) => word === one || (one.length > 2 && word.startsWith(one))));

  /** The whole word of each piece of a caption; a piece without a space before it continues a word. */
  function wholeWords(pieces) {
    const wholes = [];
    let start = 0;
    pieces.forEach((piece, at) => {
      if (/^\s/.test(piece)) start = at;
      const whole = pieces.slice(start, at + 1).join("").trim();
      wholes.fill(whole, start, at);
      wholes.push(whole);
    });
    return wholes;
  }

  function saying(choice, place, image, { stage, looked, heard, asked }) {
    const { captions, cider, boxes } = report.get(choice.name);
    const maps = attention(choice, image);
    const text = captions[image];
    const pieces = maps?.words ?? text.match(/\s*\S+/g) ?? [];
    const line = el("p", { class: "caption", role: "group", "aria-label": `${choice.label} says: ${text}` });
    const wholes = wholeWords(pieces);
    const looks = (word) => {
      const unheard = wordsOf(wholes[word]).some((one) => !heard.has(one));
      return `${unheard ? "unheard" : ""} ${found(wholes[word], asked) ? "found" : ""}`;
    };
    const tell = (at) => {
      looked.textContent = at?.error ?? `at “${at?.word}”`;
      looked.hidden = !at;
    };
    const said = { text, pieces, attention: maps && (() => mapsOf(maps, image)), seen: boxes?.[image] };
    captionView.words(line, said, { stage, tell, looks, leave: (by) => leaveFor(line, by) });
    const score = typeof cider[image] === "number" ? cider[image].toFixed(1) : "–";
    const head = el("p", { class: "who" },
      swatch(choice),
      el("span", { class: "run", title: choice.label }, choice.label),
      el("span", { class: "score", title: "CIDEr-D of this caption" },
        place ? null : "CIDEr-D ", el("b", {}, score), place ? gain(image) : null));
    return el("div", { class: `said ${place ? "other" : ""}` }, head, line);
  }

  /** The CIDEr-D difference of the other run's caption. */
  function gain(image) {
    const [one, two] = shown.map((choice) => report.get(choice.name).cider[image]);
    if (difference(image) <= 0) return null;
    const better = two > one;
    return el("span", { class: better ? "better" : "worse" }, ` ${better ? "+" : "−"}${Math.abs(two - one).toFixed(1)}`);
  }

  /** Moves the focus to the next or previous caption with attention. */
  function leaveFor(line, by) {
    const cards = () => document.querySelectorAll("#cards .card").length;
    const search = () => {
      const lines = [...document.querySelectorAll("#cards .caption")];
      for (let at = lines.indexOf(line) + by; at in lines; at += by) {
        const button = lines[at].querySelector("button");
        if (button) return button;
      }
      return null;
    };
    let next = search();
    while (!next && by > 0 && cards() < order.length) {
      grow();
      next = search();
    }
    if (!next) return;
    next.focus();
    next.closest(".card").scrollIntoView({ block: "nearest" });
  }

  function fill() {
    const options = () => choices.map((choice) => el("option", { value: value(choice) }, choice.label));
    byId("run").replaceChildren(...options());
    byId("other").replaceChildren(el("option", { value: "" }, "no other run"), ...options());
    byId("other-label").hidden = choices.length < 2;
    byId("order").querySelector('[value="different"]').disabled = choices.length < 2;
  }

  /** Chooses the other run for "most different": the baseline, or else the next run. */
  function chooseOther() {
    const run = chosen("run");
    if (chosen("other") && chosen("other") !== run) return;
    const others = choices.filter((choice) => choice.run !== run.run);
    const found = others.find((choice) => runs[choice.run].variant === baseline) ?? others[0] ??
      choices.find((choice) => choice !== run);
    byId("other").value = value(found);
  }

  if (!choices.length) return;
  fill();
  byId("order").addEventListener("input", () => byId("order").value === "different" && chooseOther());
  byId("other").addEventListener("input", () => {
    if (!byId("other").value && byId("order").value === "different") byId("order").value = "best";
  });
  for (const id of ["run", "other", "order", "search", "in-references"]) byId(id).addEventListener("input", draw);
  report.on("open", (run, evaluation) => {
    const place = runs[run].evaluations.findIndex(({ name }) => name === evaluation);
    byId("run").value = value({ run, place });
    draw();
    byId("captions").scrollIntoView();
    byId("run").focus({ preventScroll: true });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  draw();
})();
