"use strict";
/* Captions a picture by the page's own server, and shows where the model looked. Keeps nothing. */

(() => {
  // Captions of a search, and samples, that are shown where the user has not said how many; samples
  // are drawn from the likeliest words, since the others are mostly noise. As in __init__.py.
  const SHOWN = 4;
  const TOP_P = 0.9;
  // The settings that most people change; the others are folded away.
  const USUAL = ["method", "num_captions", "num_beams", "length_penalty", "max_length", "temperature", "top_k", "top_p", "seed", "prompt", "must_include"];
  const TRIES = 8;
  const byId = (id) => document.getElementById(id);
  const server = { models: [], limits: {} };
  /** The picture, changed settings by name, the seed of the samples, and what ends the requests. */
  const now = { file: null, name: "", changed: {}, seed: 0, end: new AbortController() };

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child));
    return node;
  }

  function complain(sentence) {
    byId("alert").textContent = sentence;
    byId("alert").hidden = !sentence;
  }

  const chosen = () => [byId("model"), byId("beside")]
    .map(({ value }) => server.models.find(({ name }) => name === value)).filter((model) => model);
  const setting = (model, name) => model.settings.find((found) => found.name === name);
  const method = (model) => now.changed.method ?? model.decoding.method;
  /** Settings that the model has with its method. */
  const settingsOf = (model) => model.settings.filter(({ of }) => !of || of.includes(method(model)));
  const size = (bytes) => `${+(bytes / 1e6).toPrecision(2)} MB`;

  const shown = (model) => Math.min(SHOWN, setting(model, "num_captions")?.most ?? SHOWN);

  /** The settings of a request for one caption: what was changed, of which the server has the rest. */
  function asked(model) {
    const found = {};
    for (const { name } of settingsOf(model)) if (name in now.changed) found[name] = now.changed[name];
    if (isSampled(model) && now.seed) found.seed = (found.seed ?? model.decoding.seed ?? 0) + now.seed;
    return found;
  }

  /** The settings of a request for the other captions; null where there are none to ask for. */
  function askedMore(model) {
    const isSet = "num_captions" in now.changed || model.decoding.num_captions > 1;
    if (isSet || !setting(model, "num_captions")) return null;
    const beams = method(model) === "beam" ? now.changed.num_beams ?? model.decoding.num_beams : SHOWN;
    const count = Math.min(shown(model), beams);
    return count > 1 ? { ...asked(model), num_captions: count } : null;
  }

  /** Whether another seed gives other captions. */
  const isSampled = (model) => setting(model, "seed") && [undefined, "sample"].includes(method(model));
  const hasSamples = (model) => method(model) !== "sample" && setting(model, "method")?.choices.includes("sample");

  /** The answer of the server for the picture. `wait` is told of each delay. Throws an Error of a sentence. */
  async function ask(model, settings, { attention = false, wait = () => {} } = {}) {
    const { signal } = now.end;
    const query = new URLSearchParams({ model: model.name, ...(attention && { attention: 1 }) });
    for (let tried = 1; ; tried++) {
      const body = new FormData();
      body.append("image", now.file, now.name);
      body.append("settings", JSON.stringify(settings));
      let answer;
      try {
        answer = await fetch(`caption?${query}`, { method: "POST", body, signal });
      } catch (error) {
        if (signal.aborted) throw error;
        throw new Error("The server can't be reached: is it still running?");
      }
      // 504: it may be compiling what was asked for.
      if ([503, 504].includes(answer.status) && tried < TRIES) {
        const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 30);
        wait(`The server is busy; trying again in ${seconds} s`);
        await new Promise((done) => setTimeout(done, 1000 * seconds));
        signal.throwIfAborted();
        continue;
      }
      const found = await answer.json().catch(() => ({}));
      const [row] = found.results ?? [{}];
      if (found.error ?? row.error) throw new Error(found.error ?? row.error);
      if (!answer.ok) throw new Error(`The server answered with status ${answer.status}`);
      return { model: model.name, decoding: found.decoding, row };
    }
  }

  /** Shows a picture and captions it. */
  async function take(file, name) {
    if (!file) return;
    if (!(await ready)) return;
    const { limits } = server;
    if (file.size > limits.bytes) {
      return complain(`${name} has ${size(file.size)}, and this server takes ${size(limits.bytes)}: make it smaller.`);
    }
    Object.assign(now, { file, name, seed: 0 });
    byId("drop").hidden = true;
    for (const id of ["stage", "looked", "answers", "another"]) byId(id).hidden = false;
    draw(file);
    scrollTo({ top: 0 });
    captionAll();
  }

  let stage = null;

  function draw(file) {
    const picture = el("img", { alt: "The picture that is captioned" });
    picture.addEventListener("load", () => {
      picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) < 160);
      URL.revokeObjectURL(picture.src);
    });
    picture.addEventListener("error", () => {
      URL.revokeObjectURL(picture.src);
      byId("stage").replaceChildren(el("p", { class: "hint" }, "This browser can't draw this kind of file."));
    });
    picture.src = URL.createObjectURL(file);
    stage = captionView.stage(picture);
    byId("stage").replaceChildren(stage.element);
  }

  const look = (found) => {
    byId("looked").textContent = captionView.told(found) || byId("looked").dataset.idle;
  };

  /** Captions the picture with each chosen model, in place of what is shown. */
  function captionAll() {
    if (!now.file || !chosen().length) return;
    now.end.abort();
    now.end = new AbortController();
    complain("");
    byId("looked").dataset.idle = "";
    look(null);
    stage.dark();
    byId("hint").hidden = true;
    const models = chosen();
    byId("answers").classList.toggle("two", models.length > 1);
    byId("answers").replaceChildren(...models.map((model) => {
      const article = el("article", { class: "answer", "aria-busy": "true", "aria-label": model.name },
        models.length > 1 && el("p", { class: "who" }, el("b", {}, model.name), ` · ${describe(model)}`),
        el("p", { class: "caption waiting" }, "Looking…"));
      answer(article, model, models.length > 1);
      return article;
    }));
  }

  async function answer(article, model, isOneOfTwo) {
    const line = article.querySelector(".caption");
    const { signal } = now.end;
    const wait = (sentence) => { line.textContent = sentence; };
    try {
      const start = performance.now();
      const found = await ask(model, asked(model), { attention: model.attention, wait });
      const seconds = (performance.now() - start) / 1000;
      const { row } = found;
      line.classList.remove("waiting");
      line.textContent = "";
      line.setAttribute("role", "group");
      line.setAttribute("aria-label", row.caption);
      captionView.words(line, { ...row, text: row.caption }, { stage, tell: look });
      byId("looked").dataset.idle = row.attention ? "Point at a word to see where the model looked" : "";
      look(null);
      byId("hint").hidden = !row.log_probs;
      byId("status").textContent = `${isOneOfTwo ? `${model.name}: ` : ""}${row.caption || "The model says nothing."}`;
      article.append(facts(found, seconds));
      let others = row.alternatives ?? [];
      // In a request of its own: the first one is of settings that the server has compiled.
      const settings = askedMore(model);
      if (settings) {
        const more = (await ask(model, settings)).row;
        others = [more, ...(more.alternatives ?? [])].filter(({ caption }) => caption !== row.caption);
      }
      if (others.length || isSampled(model)) {
        const title = isSampled(model) ? "Other samples" : "Other captions";
        article.append(list(title, others, isSampled(model) && drawAgain(captionAll)));
      }
      if (hasSamples(model)) await sample(article, model);
    } catch (error) {
      if (signal.aborted) return;
      complain(isOneOfTwo ? `${model.name}: ${error.message}` : error.message);
      if (line.classList.contains("waiting")) line.textContent = "No caption";
    } finally {
      article.setAttribute("aria-busy", "false");
    }
  }

  /** Adds samples below an answer, in place of earlier ones. */
  async function sample(article, model) {
    const again = drawAgain(() => sample(article, model).catch((error) => complain(error.message)));
    const settings = { method: "sample", num_captions: shown(model), seed: (model.decoding.seed ?? 0) + now.seed };
    if (setting(model, "top_p")) settings.top_p = TOP_P;
    const { row } = await ask(model, settings);
    const earlier = article.querySelector(".samples");
    const found = list("Samples", [row, ...(row.alternatives ?? [])], again);
    found.classList.add("samples");
    if (!earlier) return article.append(found);
    earlier.replaceWith(found);
    found.querySelector("button").focus();
  }

  const drawAgain = (then) => el("button", {
    type: "button", class: "again", click: () => { now.seed += 1; then(); },
  }, "Draw again");

  const list = (title, rows, button) => el("section", { class: "others", "aria-label": title },
    el("h2", {}, title, el("span", {}, button || "log-probability")),
    el("ol", {}, ...rows.map((row) => el("li", {},
      el("span", { dir: "auto" }, row.caption || "says nothing"),
      el("span", { title: "log-probability" }, nats(row.log_prob))))));

  const nats = (number) => (typeof number === "number" ? number.toFixed(1).replace("-", "−") : "–");

  function facts(found, seconds) {
    const { row } = found;
    const { attention, pieces, seen, ...data } = row;
    const json = JSON.stringify({ model: found.model, decoding: found.decoding, ...data }, null, 2);
    return el("div", { class: "facts" },
      el("span", {}, `log-probability ${nats(row.log_prob)}`),
      el("span", {}, `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`),
      !row.finished && el("span", {}, "cut at the longest length"),
      row.met === false && el("span", {}, "without a word that it must include"),
      el("button", { type: "button", click: (event) => copy(row.caption, event.target) }, "Copy text"),
      el("button", { type: "button", click: (event) => copy(json, event.target) }, "Copy JSON"));
  }

  async function copy(text, button) {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
    } else { // A page that neither comes from this machine nor by HTTPS has no clipboard.
      const area = el("textarea", { class: "unseen" }, text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const label = button.textContent;
    button.textContent = byId("status").textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  /** Draws the controls of the first model's settings. */
  function drawSettings() {
    const [model] = chosen();
    byId("decoding").hidden = !settingsOf(model).length;
    const reset = el("button", {
      type: "button", disabled: !Object.keys(now.changed).length,
      click: () => { now.changed = {}; drawSettings(); captionAll(); },
    }, "Back to the model's own settings");
    const isOpen = byId("settings").querySelector("details")?.open;
    const [usual, others] = [true, false].map((isUsual) => settingsOf(model)
      .filter(({ name }) => USUAL.includes(name) === isUsual).map((found) => control(model, found)));
    byId("settings").replaceChildren(...usual,
      others.length ? el("details", { open: isOpen }, el("summary", {}, "More"), el("div", {}, ...others)) : "",
      el("div", { class: "buttons" }, reset));
  }

  /** The control of a setting; one that is left empty is the model's own. */
  function control(model, { name, kind, least, most, choices, about }) {
    const value = [now.changed[name] ?? model.decoding[name] ?? ""].join(", ");
    const given = kind === "choice"
      ? el("select", {}, ...choices.map((choice) => el("option", { selected: String(choice) === value }, choice)))
      : el("input", {
        type: { int: "number", float: "number", bool: "checkbox" }[kind] ?? "text",
        min: least, max: most, step: kind === "float" ? "any" : undefined,
        placeholder: kind === "str" ? "none" : "the model's own", checked: value === "true", value: kind === "bool" ? undefined : value,
      });
    given.dataset.setting = name;
    given.addEventListener("change", () => {
      if (!given.reportValidity()) return;
      if (kind === "bool") now.changed[name] = given.checked;
      else if (kind === "choice") now.changed[name] = choices[given.selectedIndex];
      else now.changed[name] = kind === "str" ? given.value : given.valueAsNumber;
      if (given.value === "" && kind !== "str") delete now.changed[name];
      drawSettings();
      byId("settings").querySelector(`[data-setting="${name}"]`).focus();
      captionAll();
    });
    const label = el("span", { class: name in now.changed ? "changed" : "" }, name.replaceAll("_", " "));
    const parts = kind === "bool" ? [given, label] : [label, given];
    return el("label", { class: kind === "bool" ? "check" : "" }, ...parts, about && el("small", {}, about));
  }

  /** Whether the server has told its models. */
  async function start() {
    try {
      const answer = await fetch("models");
      if (!answer.ok) throw new Error(answer.status);
      Object.assign(server, await answer.json());
    } catch {
      complain("The server can't be reached: start it, and load this page again.");
      return false;
    }
    const options = () => server.models.map(({ name }) => el("option", {}, name));
    byId("model").replaceChildren(...options());
    byId("beside").replaceChildren(el("option", { value: "" }, "no other"), ...options());
    byId("beside").selectedIndex = server.models.length > 1 ? 2 : 0;
    byId("models").hidden = server.models.length < 2;
    choose();
    return true;
  }

  const describe = ({ about, parameters }) => `${about} · ${(parameters / 1e6).toPrecision(2)} M parameters`;

  function choose() {
    const [model, other] = chosen();
    if (other === model) byId("beside").value = "";
    byId("about").textContent = other ? "" : `${model.name} · ${describe(model)}`;
    drawSettings();
  }

  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["model", "beside"]) byId(id).addEventListener("change", () => { choose(); captionAll(); });
  for (const [button, input] of [["choose", "file"], ["another", "file"], ["take", "camera"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      const [file] = event.target.files;
      take(file, file?.name);
      event.target.value = ""; // The same file may be chosen again.
    });
  }
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) event.preventDefault();
    take(file, file?.name);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!file) complain("What was dropped is no file: save the picture first, or copy and paste it.");
    take(file, file?.name);
  });
  for (const button of document.querySelectorAll("#examples button")) {
    button.addEventListener("click", async () => {
      const { src } = button.firstElementChild;
      take(await (await fetch(src)).blob(), src.split("/").pop());
    });
  }
  const ready = start();
})();
