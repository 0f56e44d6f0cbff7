"use strict";
/* The table of results, with sorting, filtering and means over seeds. */

(() => {
  const { el, byId, show, colour } = report;
  const { rows: all, runs, fields, baseline, evaluations, percent, less_is_better: lessIsBetter } = report.get("report");
  const SHOWN = ["CIDEr-D", "BLEU-4", "ROUGE-L", "METEOR", "truth_rate"];
  const SURE = 0.05;
  let sorted = { key: null, falling: true };

  const metrics = [...new Set(all.flatMap((row) => Object.keys(row.scores)))];
  const several = evaluations.length > 1;
  // Runs without an evaluation are shown once.
  const told = all.filter((row) => Object.keys(row.scores).length || row.evaluation === evaluations[0]);
  const isMean = (row) => row.run === null;
  const nameOf = (row) => row.run ?? row.variant;

  /** The numbers of the runs of a row. */
  function runsOf(row) {
    return [...runs.keys()].filter((number) =>
      (isMean(row) ? runs[number].variant === row.variant : runs[number].name === row.run));
  }

  const COSTS = [
    { key: "parameters", title: "Parameters", format: report.compact },
    { key: "trainable_parameters", title: "Trainable", format: report.compact },
    { key: "seconds", title: "Training", format: report.duration, rising: true, of: (row) => row.seconds.train },
    { key: "captions_per_second", title: "Captions/s", format: report.compact },
    { key: "peak_memory_mib", title: "Peak MiB", format: (value) => Math.round(value).toLocaleString("en") },
  ].map((column) => ({ of: (row) => row[column.key], ...column }));

  function columns(rows) {
    const others = metrics.filter((name) => !SHOWN.includes(name)).sort();
    const wanted = byId("all-metrics").checked ? others : [];
    const named = [...SHOWN.filter((name) => metrics.includes(name)), ...wanted];
    const there = (column) => rows.some((row) => typeof column.of(row) === "number");
    return [
      { key: "name", title: "Run", of: nameOf, text: true },
      ...(several ? [{ key: "evaluation", title: "Decoding", of: (row) => row.evaluation, text: true }] : []),
      ...named.map((name) => ({
        key: name, title: name, metric: true, rising: lessIsBetter.includes(name), of: (row) => row.scores[name]?.value,
      })),
      ...COSTS.filter(there),
      ...fields.map((field) => ({
        key: `setting ${field}`, title: field.split(".").slice(-2).join("."), full: field, setting: true,
        of: (row) => row.fields[field],
      })),
    ];
  }

  function valueOf(column, row) {
    const value = column.of(row) ?? null;
    return value === null || typeof value === "number" ? value : show(value);
  }

  function compare(column, falling) {
    return (a, b) => {
      const [one, two] = [valueOf(column, a), valueOf(column, b)];
      if (one === null || two === null) return (one === null) - (two === null); // Missing values come last in both orders.
      const both = typeof one === "number" && typeof two === "number";
      const order = both ? one - two : String(one).localeCompare(String(two), "en", { numeric: true });
      return falling ? -order : order;
    };
  }

  /** The format of a column, the range of its values and intervals, and its best value. */
  function scale(column, rows) {
    const known = rows.map((row) => column.of(row)).filter((value) => typeof value === "number");
    const [least, most] = [Math.min(...known), Math.max(...known)];
    const ends = rows.flatMap((row) => [row.scores[column.key]?.low, row.scores[column.key]?.high]);
    const all = [...known, ...ends.filter((value) => typeof value === "number")];
    const digits = percent.includes(column.key) || Math.max(Math.abs(least), Math.abs(most)) > 10 ? 1 : 3;
    const format = column.format ?? ((value) => value.toFixed(digits));
    const best = column.metric && most > least ? (column.rising ? least : most) : null;
    return { format, low: Math.min(...all), high: Math.max(...all), best, alone: known.length < 2 };
  }

  function matches(row) {
    const settings = fields.map((field) => `${field}=${show(row.fields[field])}`);
    const text = [nameOf(row), row.evaluation, row.status, ...settings].join(" ").toLowerCase();
    return byId("filter").value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  function cell(column, row, range) {
    if (column.key === "name") return nameCell(row);
    const value = column.of(row) ?? null;
    if (column.text || column.setting) {
      return el("td", { class: column.setting && typeof value === "number" ? "number" : "" }, show(value));
    }
    if (value === null) return el("td", { class: "number none" }, "–");
    const { format, best } = range;
    if (!column.metric) return el("td", { class: "number" }, format(value));
    const score = row.scores[column.key];
    const deviation = score.deviation === null ? null : el("small", {}, ` ± ${format(score.deviation)}`);
    return el("td", { class: `number ${value === best ? "best" : ""}` },
      format(value), deviation, beside(score, format), drawn(score, range));
  }

  /** Draws a value as a dot and its interval as a line, on the scale of the column. */
  function drawn(score, { low, high, alone }) {
    if (alone || high <= low) return null;
    const share = (value) => `${(100 * (value - low) / (high - low)).toFixed(1)}%`;
    const [from, to] = score.low === null ? [score.value, score.value] : [score.low, score.high];
    const style = `--from:${share(from)};--to:${share(to)};--at:${share(score.value)}`;
    return el("div", { class: "range", style, "aria-hidden": "true" });
  }

  /** Shows the interval of a value, or its difference from the baseline. */
  function beside(score, format) {
    if (!byId("differences").checked) {
      return score.low === null ? null : el("small", { class: "beside" }, `${format(score.low)} – ${format(score.high)}`);
    }
    if (score.difference === null) return null;
    const sign = score.difference < 0 ? "−" : "+";
    const p = score.p === null ? "" : score.p < 0.001 ? ", p < 0.001" : `, p = ${score.p.toFixed(score.p < 0.1 ? 3 : 2)}`;
    const sure = score.p !== null && score.p < SURE ? "sure" : "";
    return el("small", { class: `beside ${sure}` }, `${sign}${format(Math.abs(score.difference))}${p}`);
  }

  function nameCell(row) {
    const numbers = runsOf(row);
    const first = numbers.find((number) => runs[number].evaluations.some(({ name }) => name === row.evaluation));
    const open = () => report.tell("open", first, row.evaluation);
    const name = first === undefined ? el("span", { class: "name" }, nameOf(row))
      : el("button", { class: "name", click: open }, nameOf(row));
    const seeds = isMean(row) ? el("small", {}, report.plural(row.seeds.length, "seed")) : null;
    const allDone = numbers.every((number) => runs[number].status === "done");
    const kind = ["failed", "outdated", "begun", "waiting"].find((status) => row.status.includes(status));
    const badge = allDone ? null : el("span", { class: `badge ${kind}` }, row.status);
    const base = row.variant === baseline ? el("span", { class: "badge base" }, "baseline") : null;
    const error = row.error ? el("div", { class: "error", title: row.error }, row.error) : null;
    const swatch = el("span", { class: "swatch", style: `background:${colour(row.variant)}` });
    return el("th", { scope: "row" }, el("div", { class: "run" }, swatch, el("div", {}, name, " ", seeds, badge, base, error)));
  }

  function head(column) {
    const mine = sorted.key === column.key;
    const arrow = mine ? (sorted.falling ? "↓" : "↑") : "";
    const button = el("button", {
      title: column.full,
      click: () => {
        const first = !column.text && !column.setting && !column.rising;
        sorted = { key: column.key, falling: mine ? !sorted.falling : first };
        draw();
        byId("results").querySelector("th[aria-sort] button").focus();
      },
    }, column.title, el("span", { class: "arrow", "aria-hidden": "true" }, arrow));
    const order = sorted.falling ? "descending" : "ascending";
    return el("th", { scope: "col", "aria-sort": mine ? order : null, class: column.text ? "" : "right" }, button);
  }

  function draw() {
    const mine = told.filter((row) => isMean(row) === byId("means").checked);
    const shown = columns(mine);
    const rows = mine.filter(matches);
    const column = shown.find((one) => one.key === sorted.key);
    if (column) rows.sort(compare(column, sorted.falling));
    const ranges = new Map(shown.map((one) => [one, scale(one, rows)]));
    byId("results").tHead.replaceChildren(el("tr", {}, ...shown.map(head)));
    byId("results").tBodies[0].replaceChildren(...rows.map((row) => {
      const on = () => report.tell("highlight", runsOf(row));
      const off = () => report.tell("highlight", null);
      return el("tr", { mouseenter: on, mouseleave: off, focusin: on, focusout: off },
        ...shown.map((one) => cell(one, row, ranges.get(one))));
    }));
    if (!rows.length) {
      const nothing = el("td", { class: "hint", colspan: shown.length }, "no run is like that");
      byId("results").tBodies[0].append(el("tr", {}, nothing));
    }
    byId("rows").textContent = `${rows.length.toLocaleString("en")} of ${report.plural(mine.length, "row")}`;
    report.tell("filtered", new Set(rows.flatMap(runsOf)));
  }

  byId("means-label").hidden = new Set(runs.map((run) => run.variant)).size === runs.length;
  byId("means").checked = !byId("means-label").hidden;
  byId("all-label").hidden = metrics.every((name) => SHOWN.includes(name));
  byId("differences-label").hidden = baseline === null;
  byId("baseline").textContent = baseline;
  for (const id of ["filter", "means", "all-metrics", "differences"]) byId(id).addEventListener("input", draw);
  document.addEventListener("DOMContentLoaded", draw);
})();
