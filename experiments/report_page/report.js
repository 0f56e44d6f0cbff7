"use strict";
/* Shared by the parts of the page: data, helpers and events. */

const report = (() => {
  const values = new Map();
  const coming = new Map();
  const listeners = new Map();

  /** Stores a value; called by the scripts in data/. */
  function put(name, value) {
    values.set(name, value);
  }

  /** Returns a stored value. */
  function get(name) {
    return values.get(name);
  }

  /** Loads the value of data/NAME.js, a script since a page opened from disk can load nothing else. */
  function load(name) {
    if (!coming.has(name)) {
      coming.set(name, new Promise((done, failed) => {
        if (values.has(name)) return done(values.get(name));
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => done(values.get(name));
        script.onerror = () => {
          coming.delete(name);
          failed(new Error(`data/${name}.js is missing`));
        };
        document.head.append(script);
      }));
    }
    return coming.get(name);
  }

  function on(event, listener) {
    listeners.set(event, [...(listeners.get(event) ?? []), listener]);
  }

  function tell(event, ...details) {
    for (const listener of listeners.get(event) ?? []) listener(...details);
  }

  /** Makes an element with attributes (functions become listeners) and children. */
  function el(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "circle", "text", "rect", "clipPath", "defs"];
    const node = svg.includes(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const byId = (id) => document.getElementById(id);

  /** Formats a value of a config. */
  function show(value) {
    if (value === null || value === undefined) return "–";
    if (Array.isArray(value)) return value.length ? value.map(show).join(", ") : "none";
    if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(+value.toPrecision(6));
    if (typeof value === "object") return JSON.stringify(value);
    return value === "" ? "“”" : String(value);
  }

  function duration(seconds) {
    if (seconds < 100) return `${+seconds.toPrecision(3)} s`;
    if (seconds < 6000) return `${+(seconds / 60).toPrecision(3)} min`;
    return `${+(seconds / 3600).toPrecision(3)} h`;
  }

  /** Formats 4200000 as 4.2 M. */
  function compact(number) {
    for (const [unit, letter] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
      if (number >= unit) return `${+(number / unit).toPrecision(3)}${letter}`;
    }
    return String(+number.toPrecision(3));
  }

  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  /** Hue, saturation and lightness of each variant; neighbours also differ in lightness. */
  const COLOURS = [
    [217, 75, 0], [25, 85, 3], [155, 75, -10], [335, 70, 6], [48, 85, -10],
    [195, 75, 0], [275, 60, 9], [90, 65, -9], [0, 70, -3], [220, 6, 4],
  ];
  function colour(variant) {
    const variants = [...new Set(get("report").runs.map((run) => run.variant))];
    const place = variants.indexOf(variant);
    const [hue, saturation, lighter] = COLOURS[place] ?? [(place * 137.5) % 360, 65, 0];
    return `hsl(${hue} ${saturation}% calc(var(--line-lightness) + ${lighter}%))`;
  }

  /** Splits a text into words for searching, in lower case and without punctuation. */
  function wordsOf(text) {
    return text.toLowerCase().match(/[\p{L}\p{M}\p{N}]+/gu) ?? [];
  }

  document.addEventListener("DOMContentLoaded", () => {
    const { title, about, runs } = get("report");
    const images = get("images");
    document.title = `${title} – report`;
    byId("title").textContent = title;
    const counts = new Map();
    for (const run of runs) counts.set(run.status, (counts.get(run.status) ?? 0) + 1);
    const parts = [plural(runs.length, "run")];
    if (runs.length > 1 || !counts.has("done")) {
      parts.push(...[...counts].map(([status, count]) => `${count === runs.length ? "all" : count} ${status}`));
    }
    if (images.ids.length) {
      const all = images.ids.length === images.total;
      parts.push(all ? plural(images.total, "validation image")
        : `the first ${images.ids.length} of ${plural(images.total, "validation image")}`);
    }
    byId("summary").textContent = parts.join(" · ");
    const made = Object.entries(about).map(([name, value]) => `${name}: ${show(value)}`);
    byId("footer").textContent = ["made by capjax", ...made].join(" · ");
    for (const found of images.ids.length ? [] : document.querySelectorAll('#captions, [href="#captions"]')) found.hidden = true;
  });

  return { put, get, load, on, tell, el, byId, show, duration, compact, plural, colour, wordsOf };
})();
