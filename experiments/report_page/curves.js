"use strict";
/* Learning curves as SVG: loss and CIDEr-D by step or by time. */

(() => {
  const { el, byId, colour } = report;
  const { runs } = report.get("report");
  const HEIGHT = 310, LEFT = 46, RIGHT = 14, TOP = 14, BOTTOM = 34;
  const PANELS = [
    {
      title: "Loss, nats a token", format: (value) => value.toFixed(3),
      lines: [
        { group: "train", name: "loss", kind: "faint", label: "training" },
        { group: "validation", name: "loss", kind: "firm", label: "validation" },
      ],
    },
    {
      title: "CIDEr-D on validation", format: (value) => value.toFixed(1),
      lines: [{ group: "validation", name: "CIDEr-D", kind: "firm", label: "" }],
    },
    // Of runs that are trained by a reward.
    ...[["reward", "Reward of samples"], ["kl", "KL from the start, nats a caption"], ["finished", "Share of samples that end properly"]]
      .filter(([name]) => runs.some((run) => name in run.curves.train))
      .map(([name, title]) => ({
        title, format: (value) => value.toFixed(3),
        lines: [{ group: "train", name, kind: "firm", label: "" }],
      })),
  ];
  const DASHES = ["", "7 4", "2 4", "9 3 2 3"]; // One for each seed of a variant.
  const hidden = new Set();
  let filtered = new Set(runs.keys());
  let highlighted = null;
  let WIDTH = 0; // Of a chart in pixels, so that text has the same size on every screen.

  const logged = runs.filter((run) => run.curves.train.step.length);
  // All runs share an axis, and runs of earlier versions have no wall time.
  const walled = logged.every((run) => run.curves.train.wall_seconds[0] !== null);
  const TIME = walled ? { key: "wall_seconds", title: "wall time" } : { key: "seconds", title: "training time" };
  const byStep = () => document.querySelector("#axis input:checked").value === "step";

  /** The lines of a panel, with points in data units: [{run, kind, label, points: [[x, y]]}]. */
  function linesOf(panel) {
    const made = [];
    runs.forEach((run, number) => {
      if (!filtered.has(number) || hidden.has(run.variant)) return;
      for (const line of panel.lines) {
        const columns = run.curves[line.group];
        const points = columns[byStep() ? "step" : TIME.key].map((x, at) => [x, (columns[line.name] ?? [])[at]])
          .filter(([x, y]) => typeof x === "number" && typeof y === "number");
        if (points.length) made.push({ ...line, run: number, points });
      }
    });
    return made;
  }

  /** Round numbers that divide a range into about `count` parts. */
  function ticks(least, most, count) {
    const rough = (most - least) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
    const made = [];
    for (let at = Math.ceil(least / step - 1e-9); at * step <= most + step * 1e-9; at++) made.push(+(at * step).toPrecision(12));
    return made;
  }

  /** The axis ranges. Values before the first evaluation may lie above the range. */
  function rangeOf(lines) {
    const most = (values) => values.reduce((a, b) => Math.max(a, b)); // Math.max(...values) fails on very long arrays.
    const right = most(lines.flatMap((line) => line.points.map(([x]) => x)));
    const first = Math.min(...lines.filter((line) => line.kind === "firm").map((line) => line.points[0][0]));
    const start = Math.min(Math.max(first, 0.04 * right), 0.15 * right);
    const late = lines.flatMap((line) => {
      const points = line.points.filter(([x]) => x >= start);
      return (points.length ? points : line.points).map(([, y]) => y);
    });
    const [low, high] = [-most(late.map((y) => -y)), most(late)];
    const pad = 0.05 * (high - low) || 1;
    return { right: right || 1, low: Math.min(low >= 0 ? Math.max(low - pad, 0) : low - pad), high: high + pad };
  }

  /** Draws a panel; returns its figure. */
  function drawPanel(panel, place) {
    const lines = linesOf(panel);
    const label = `${panel.title}, by ${byStep() ? "step" : TIME.title}: ` +
      `${report.plural(new Set(lines.map((line) => line.run)).size, "run")}`;
    if (!lines.length) {
      const chosen = runs.some((run, number) => filtered.has(number) && !hidden.has(run.variant));
      const nothing = chosen ? "nothing is logged yet" : "no run is chosen";
      return el("figure", {}, el("figcaption", {}, panel.title), el("p", { class: "hint" }, nothing));
    }
    const { right, low, high } = rangeOf(lines);
    const toX = (x) => LEFT + (x / right) * (WIDTH - LEFT - RIGHT);
    const toY = (y) => HEIGHT - BOTTOM - ((y - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const written = (x) => (byStep() ? report.compact(x) : report.duration(x));
    const svg = el("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "application", tabindex: "0", "aria-roledescription": "chart", "aria-label": label });
    svg.append(el("defs", {}, el("clipPath", { id: `clip-${place}` },
      el("rect", { x: LEFT, y: TOP - 6, width: WIDTH - LEFT - RIGHT + 6, height: HEIGHT - TOP - BOTTOM + 8 }))));
    for (const y of ticks(low, high, 5)) {
      svg.append(el("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(y), y2: toY(y) }));
      svg.append(el("text", { class: "tick", x: LEFT - 7, y: toY(y) + 4, "text-anchor": "end" }, String(y)));
    }
    for (const x of timeTicks(right)) {
      svg.append(el("text", { class: "tick", x: toX(x), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, x ? written(x) : "0"));
    }
    const group = el("g", { "clip-path": `url(#clip-${place})` });
    for (const line of [...lines].sort((a, b) => (a.kind === "firm") - (b.kind === "firm"))) {
      const path = line.points.map(([x, y], at) => `${at ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
      const dashes = DASHES[seedPlace(line.run) % DASHES.length];
      const look = { class: `curve ${line.kind}`, "data-run": line.run, stroke: colour(runs[line.run].variant) };
      group.append(el("path", { ...look, d: path, "stroke-dasharray": line.kind === "firm" ? dashes : "" }));
      if (line.kind === "firm" && line.points.length < 30) {
        for (const [x, y] of line.points) {
          group.append(el("circle", { ...look, fill: look.stroke, cx: toX(x), cy: toY(y), r: 2.6 }));
        }
      }
    }
    const marker = el("circle", { class: "marker", r: 5.5, visibility: "hidden" });
    svg.append(group, marker);
    const tip = el("div", { class: "tip", hidden: true });
    point(svg, marker, tip, { lines, panel, toX, toY, written });
    return el("figure", {}, el("figcaption", {}, panel.title, keyOf(lines)), svg, tip);
  }

  /** The key of line styles: training and validation, or seeds. */
  function keyOf(lines) {
    const sample = (text, kind, dashes) => el("span", {}, el("svg", { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" },
      el("line", { class: `sample ${kind}`, x1: 1, x2: 25, y1: 4, y2: 4, "stroke-dasharray": dashes })), text);
    if (lines.some((line) => line.kind === "faint")) {
      return el("span", { class: "key" }, sample("validation", "firm", ""), sample("training", "faint", ""));
    }
    const places = [...new Set(lines.map((line) => seedPlace(line.run)))].sort();
    if (places.length < 2 || places.length > DASHES.length) return null;
    const seedOf = (place) => runs[lines.find((line) => seedPlace(line.run) === place).run].seed;
    return el("span", { class: "key" }, ...places.map((place) => sample(`seed ${seedOf(place)}`, "firm", DASHES[place])));
  }

  function timeTicks(right) {
    if (byStep()) return ticks(0, right, WIDTH / 110);
    const unit = right < 100 ? 1 : right < 6000 ? 60 : 3600;
    return ticks(0, right / unit, WIDTH / 110).map((at) => at * unit);
  }

  const seedPlace = (number) => runs.filter((run, other) => other < number && run.variant === runs[number].variant).length;

  /** Handles the pointer and the arrow keys on a chart. */
  function point(svg, marker, tip, { lines, panel, toX, toY, written }) {
    let [line, at] = [lines.findIndex((one) => one.kind === "firm"), 0];
    if (line < 0) line = 0;

    function say() {
      const { run, label, points } = lines[line];
      const [x, y] = points[at];
      const text = `${runs[run].name}${label ? ` (${label})` : ""}: ${panel.format(y)} at ` +
        (byStep() ? `step ${Math.round(x).toLocaleString("en")}` : written(x));
      marker.setAttribute("cx", toX(x));
      marker.setAttribute("cy", Math.max(toY(y), TOP - 6));
      marker.setAttribute("stroke", colour(runs[run].variant));
      marker.setAttribute("visibility", "visible");
      tip.hidden = false;
      tip.textContent = text;
      const share = toX(x) / WIDTH;
      tip.style.left = `${100 * share}%`;
      tip.style.transform = `translateX(${-100 * share}%)`;
      byId("curve-value").textContent = text;
      report.tell("highlight", [run]);
    }

    function leave() {
      marker.setAttribute("visibility", "hidden");
      tip.hidden = true;
      report.tell("highlight", null);
    }

    const nearestTo = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = WIDTH / box.width;
      const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      let nearest = Infinity;
      lines.forEach((one, index) => one.points.forEach(([x, y], place) => {
        // Firm lines take precedence over faint ones, which have many points.
        const distance = Math.hypot(toX(x) - px, toY(y) - py) * (one.kind === "firm" ? 1 : 2);
        if (distance < nearest) [nearest, line, at] = [distance, index, place];
      }));
      say();
    };
    svg.addEventListener("pointermove", nearestTo);
    svg.addEventListener("pointerdown", nearestTo);
    // A value shown by touch stays until the next touch.
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    svg.addEventListener("blur", leave);
    svg.addEventListener("focus", () => {
      if (!svg.matches(":focus-visible")) return;
      at = lines[line].points.length - 1;
      say();
    });
    svg.addEventListener("keydown", (event) => {
      const last = lines[line].points.length - 1;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
      const changes = { ArrowUp: -1, ArrowDown: 1 };
      if (to !== undefined) {
        at = Math.min(Math.max(to, 0), last);
      } else if (event.key in changes) {
        const x = lines[line].points[at][0];
        line = (line + changes[event.key] + lines.length) % lines.length;
        const away = lines[line].points.map((one) => Math.abs(one[0] - x));
        at = away.indexOf(Math.min(...away));
      } else if (event.key === "Escape") {
        leave();
        return;
      } else {
        return;
      }
      event.preventDefault();
      say();
    });
  }

  function drawLegend() {
    const numbers = [...filtered].filter((number) => runs[number].curves.train.step.length);
    const variants = new Set(numbers.sort((a, b) => a - b).map((number) => runs[number].variant));
    byId("legend").replaceChildren(...[...variants].map((variant) => {
      const mine = [...runs.keys()].filter((number) => runs[number].variant === variant);
      const show = (numbers) => () => report.tell("highlight", numbers);
      return el("button", {
        class: "chip", "aria-pressed": String(!hidden.has(variant)),
        click: (event) => {
          if (!hidden.delete(variant)) hidden.add(variant);
          event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(variant)));
          drawPanels();
        },
        mouseenter: show(mine), mouseleave: show(null), focus: show(mine), blur: show(null),
      }, el("span", { class: "swatch", style: `background:${colour(variant)}` }), variant);
    }));
  }

  function drawPanels() {
    // The width of a grid column without the frame of a figure.
    const columns = getComputedStyle(byId("panels")).gridTemplateColumns.split(" ");
    WIDTH = Math.max(parseFloat(columns[0]) - 28, 240) || 600;
    byId("panels").replaceChildren(...PANELS.map(drawPanel));
    // With many runs, noisy training curves would hide those of validation.
    byId("panels").classList.toggle("many", new Set(linesOf(PANELS[0]).map((line) => line.run)).size > 6);
    highlight(highlighted);
  }

  function highlight(numbers) {
    highlighted = numbers;
    byId("panels").classList.toggle("highlighting", numbers !== null);
    for (const line of document.querySelectorAll("#panels .curve")) {
      line.classList.toggle("on", numbers !== null && numbers.includes(Number(line.dataset.run)));
    }
  }

  let drawn = 0;
  new ResizeObserver(() => {
    if (byId("panels").clientWidth !== drawn) drawPanels();
    drawn = byId("panels").clientWidth;
  }).observe(byId("panels"));

  byId("axis").hidden = !runs.some((run) => run.curves.train[TIME.key].some((value) => value !== null));
  byId("time-title").textContent = TIME.title;
  byId("time-hint").textContent = walled
    ? "Wall time has evaluations and compiling in it, and leaves out pauses between starts."
    : "Training time leaves out evaluations and pauses.";
  byId("axis").addEventListener("input", drawPanels);
  report.on("highlight", highlight);
  report.on("filtered", (numbers) => {
    filtered = numbers;
    drawLegend();
    drawPanels();
  });
})();
