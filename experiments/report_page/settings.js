"use strict";
/* The settings and the provenance of a run. */

(() => {
  const { el, byId, show } = report;
  const { runs } = report.get("report");

  /** Fields that differ between the runs that have begun. */
  const different = new Set();
  const begun = runs.filter((run) => Object.keys(run.config).length);
  for (const field of new Set(begun.flatMap((run) => Object.keys(run.config)))) {
    if (new Set(begun.map((run) => JSON.stringify(run.config[field]))).size > 1) different.add(field);
  }

  function rows(values, differs = () => false) {
    return Object.entries(values).map(([name, value]) => el("tr", { class: differs(name) ? "differs" : "" },
      el("th", { scope: "row" }, name), el("td", {}, show(value))));
  }

  function titled(title, made) {
    if (!made.length) return null;
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      el("h3", {}, title), el("table", { class: "fields" }, el("tbody", {}, ...made)));
  }

  function draw() {
    const run = runs[Number(byId("settings-run").value)];
    const words = byId("settings-filter").value.toLowerCase().split(/\s+/);
    const only = byId("settings-different").checked;
    const config = Object.fromEntries(Object.entries(run.config).filter(([name, value]) =>
      (!only || different.has(name)) && words.every((word) => `${name}=${show(value)}`.toLowerCase().includes(word))));
    const decodings = run.evaluations.map((evaluation) =>
      titled(`Decoding: ${evaluation.name}`, rows({ file: evaluation.stem, ...evaluation.decoding })));
    const nothing = !begun.includes(run) ? "it has not begun" : only && !different.size ? "no field differs between the runs" : "no field is like that";
    byId("settings-tables").replaceChildren(...[
      titled("Config", rows(config, (name) => different.has(name))) ?? el("p", { class: "hint" }, nothing),
      titled("Provenance", rows(run.provenance)),
      ...decodings,
      run.error ? el("pre", { class: "error" }, run.error) : null,
    ].filter(Boolean));
  }

  byId("settings-run").append(...runs.map((run, number) => el("option", { value: number }, run.name)));
  byId("settings-different").checked = different.size > 0;
  for (const id of ["settings-run", "settings-filter", "settings-different"]) byId(id).addEventListener("input", draw);
  report.on("open", (run) => {
    byId("settings-run").value = run;
    draw();
  });
  draw();
})();
