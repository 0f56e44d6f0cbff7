"use strict";
/* Captions whose words light the picture where the model looked. */

const captionView = (() => {
  // Equally spaced colours of matplotlib's inferno.
  const COLOURS = [
    [0, 0, 4], [17, 10, 48], [50, 10, 94], [87, 16, 110], [120, 28, 109], [154, 40, 101],
    [188, 55, 84], [216, 76, 62], [237, 105, 37], [249, 142, 9], [251, 182, 26], [244, 223, 83],
    [252, 255, 164],
  ];
  const OPACITY = 0.6;
  const SIDE = 128;

  function colourOf(value) {
    const place = (Math.min(Math.max(value, 0), 255) / 255) * (COLOURS.length - 1);
    const low = Math.min(Math.floor(place), COLOURS.length - 2);
    return COLOURS[low].map((part, at) => part + (place - low) * (COLOURS[low + 1][at] - part));
  }
  const TABLE = Array.from({ length: 256 }, (_, value) => colourOf(value));

  /** Bicubic weights from a grid of `size` values to SIDE positions: [[from, weight]] for each. */
  function weights(size) {
    const cubic = (t) => (t < 1 ? 1.5 * t ** 3 - 2.5 * t ** 2 + 1 : t < 2 ? -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2 : 0);
    return Array.from({ length: SIDE }, (_, to) => {
      const centre = ((to + 0.5) / SIDE) * size - 0.5;
      const first = Math.floor(centre) - 1;
      const near = Array.from({ length: 4 }, (_, k) => [first + k, cubic(Math.abs(first + k - centre))])
        .filter(([from]) => from >= 0 && from < size);
      const sum = near.reduce((total, [, weight]) => total + weight, 0);
      return near.map(([from, weight]) => [from, weight / sum]);
    });
  }
  const kept = new Map();
  const weightsOf = (size) => kept.get(size) ?? kept.set(size, weights(size)).get(size);

  /** Draws the map of a word from [h, w, base64 of words x h x w], enlarged bicubically. */
  function draw(canvas, [height, width, text], word) {
    const bytes = atob(text);
    const start = word * height * width;
    const value = (y, x) => bytes.charCodeAt(start + y * width + x);
    const across = weightsOf(width), down = weightsOf(height);
    const rows = Array.from({ length: height }, (_, y) =>
      across.map((near) => near.reduce((sum, [x, weight]) => sum + weight * value(y, x), 0)));
    const image = new ImageData(SIDE, SIDE);
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        let sum = 0;
        for (const [from, weight] of down[y]) sum += weight * rows[from][x];
        const [red, green, blue] = TABLE[Math.min(Math.max(Math.round(sum), 0), 255)];
        image.data.set([red, green, blue, 255 * OPACITY], 4 * (y * SIDE + x));
      }
    }
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function make(tag, className, ...children) {
    const node = document.createElement(tag);
    node.className = className;
    node.append(...children);
    return node;
  }

  /**
   * Lays a canvas on a picture. Returns {element, light(maps, word, seen), dark()}: `light` draws a
   * word's map, as of `draw`, on the part that was seen: left, top, right, bottom from 0 to 1.
   */
  function stage(picture) {
    const canvas = make("canvas", "");
    canvas.setAttribute("aria-hidden", "true");
    return {
      element: make("div", "frame", picture, canvas),
      light(maps, word, seen) {
        const [left, top, right, bottom] = (seen ?? [0, 0, 1, 1]).map((share) => 100 * share);
        const place = { left, top, width: right - left, height: bottom - top };
        for (const [side, share] of Object.entries(place)) canvas.style[side] = `${+share.toFixed(2)}%`;
        draw(canvas, maps, word);
        canvas.classList.add("on");
        canvas.dataset.word = word;
      },
      dark: () => canvas.classList.remove("on"),
    };
  }

  /** A probability as a percentage that is never rounded to 0 or to 100. */
  function percent(logProb) {
    const share = 100 * Math.exp(logProb);
    if (share < 1) return "<1%";
    return share > 99 && share < 99.995 ? ">99%" : `${Math.round(share)}%`;
  }

  /**
   * Fills a line with a caption. The word under the pointer, a finger or the focus lights the
   * stage; arrow keys step through the words.
   *
   * said: {text, pieces, log_probs, attention, seen}: the pieces are the end of the text, and what
   *   is before them a prompt. Without log_probs no probability is shown; without attention nothing
   *   is lit; without both the words are no buttons. `attention` may be a function that returns a
   *   promise of it.
   * tell(found): is told of what is looked at: {word, log_prob}, {error} or null.
   * looks(place): names of further classes of a piece.
   * leave(by): is asked to go to the next caption (1) or the previous one (-1).
   */
  function words(line, said, { stage, tell = () => {}, looks = () => "", leave = () => {} }) {
    const { text, attention, seen, log_probs: rated } = said;
    const pieces = said.pieces ?? text.match(/\s*\S+/g) ?? [];
    line.classList.add("words");
    line.dir = "auto";
    const prompt = text.slice(0, text.length - pieces.join("").length);
    if (prompt) line.append(make("span", "prompt", prompt));
    pieces.forEach((piece, place) => {
      const token = piece.trimStart();
      if (token.length < piece.length) line.append(" ");
      if (!token) return;
      const word = make(attention || rated ? "button" : "span", `word ${looks(place)}`, token);
      line.append(word);
      if (word.tagName === "SPAN") return;
      word.type = "button";
      word.dataset.word = place;
      word.tabIndex = line.querySelector("button") === word ? 0 : -1;
      if (!rated) return;
      word.classList.add("rated");
      word.style.setProperty("--probability", Math.exp(rated[place]).toFixed(3));
      word.title = `probability ${percent(rated[place])}`;
    });
    if (!text) line.append(make("span", "nothing", "says nothing"));
    if (line.querySelector("button")) watch(line, said, { stage, tell, leave });
  }

  function watch(line, { attention, seen, log_probs: rated }, { stage, tell, leave }) {
    let current = null;

    async function look(button) {
      current = button;
      for (const other of line.children) other.classList.toggle("on", other === button);
      if (!button) {
        stage.dark();
        return tell(null);
      }
      const place = Number(button.dataset.word);
      let maps = null;
      try {
        maps = typeof attention === "function" ? await attention() : attention;
      } catch (error) {
        if (current === button) tell({ error: error.message });
        return;
      }
      if (current !== button) return;
      if (maps) stage.light(maps, place, seen);
      tell({ word: button.textContent, log_prob: rated?.[place] });
    }

    const wordAt = (event) => event.target.closest("button");
    const focused = () => line.querySelector("button:focus");
    line.addEventListener("pointerover", (event) => wordAt(event) && look(wordAt(event)));
    line.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") look(focused());
    });
    // A finger that slides over the words looks at each.
    line.addEventListener("pointerdown", ({ target, pointerId }) => {
      if (target.hasPointerCapture(pointerId)) target.releasePointerCapture(pointerId);
    });
    line.addEventListener("focusin", (event) => {
      for (const button of line.querySelectorAll("button")) button.tabIndex = button === event.target ? 0 : -1;
      look(event.target);
    });
    line.addEventListener("focusout", () => look(null));
    line.addEventListener("keydown", (event) => {
      const buttons = [...line.querySelectorAll("button")];
      const at = buttons.indexOf(event.target);
      const last = buttons.length - 1;
      const on = getComputedStyle(line).direction === "rtl" ? -1 : 1;
      const to = { ArrowLeft: at - on, ArrowRight: at + on, Home: 0, End: last }[event.key];
      if (to !== undefined) {
        buttons[Math.min(Math.max(to, 0), last)].focus();
      } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        leave(event.key === "ArrowDown" ? 1 : -1);
      } else if (event.key === "Escape") {
        event.target.blur();
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  /** What is said of the word that is looked at. */
  function told(found) {
    if (!found || found.error) return found?.error ?? "";
    return found.log_prob === undefined ? `“${found.word}”` : `“${found.word}” · ${percent(found.log_prob)}`;
  }

  /** Draws a picture, its caption and the caption's alternatives (texts) into an element. */
  function show(element, { src, alternatives = [], ...said }) {
    const picture = make("img", "");
    Object.assign(picture, { src, alt: said.text });
    picture.onload = () => picture.classList.toggle("small", picture.naturalWidth < 160);
    const on = stage(picture);
    const looked = make("figcaption", "looked");
    const line = make("p", "caption");
    line.setAttribute("role", "group");
    line.setAttribute("aria-label", said.text);
    words(line, said, { stage: on, tell: (found) => { looked.textContent = told(found); } });
    const others = alternatives.map((text) => make("li", "", text));
    element.append(make("figure", "shown", on.element, looked, line, ...(others.length ? [make("ul", "others", ...others)] : [])));
  }

  return { stage, words, told, show };
})();
