// Fills the page of statistics from the JSON block, with the tools of `page`: Table 3 and the checks of all corpora once, everything else for
// the corpus that is chosen.
(() => {
  const { data, byId, say, visible, make, show } = page;
  const inks = { failed: "var(--said)", warned: "var(--other-3)", passed: "var(--other-1)", skipped: "var(--right)" };
  const percent = (n) => `${(100 * n).toFixed(2)}%`;
  const several = data.corpora.length > 1;

  // ---- checks

  function mark(status, text) {
    const node = make("span", { className: "kind", textContent: text });
    node.style.setProperty("--kind", inks[status]);
    return node;
  }

  function drawMatrix() {
    byId("overview").hidden = !several;
    const checks = data.verdicts[data.corpora[0]].map(([check]) => check);
    const head = make("tr", {}, make("th", { scope: "col", textContent: say("check") }),
      ...data.corpora.map((name) => make("th", { scope: "col", textContent: name })));
    const rows = checks.map((check, i) => make("tr", {}, make("th", { scope: "row", textContent: data.checks[check] }),
      ...data.corpora.map((name) => {
        const [, status, value] = data.verdicts[name][i];
        return make("td", {}, mark(status, status === "skipped" ? "–" : percent(value)));
      })));
    const legend = make("p", { className: "legend" }, ...Object.entries(data.statuses).map(([status, title]) => mark(status, title)));
    byId("matrix").append(legend, make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: say("Checks of all corpora") },
      make("table", { className: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows))));
  }

  function drawVerdicts(corpus) {
    const order = (row) => Object.keys(data.statuses).indexOf(row[1]);
    const found = [...data.verdicts[corpus]].sort((a, b) => order(a) - order(b));
    byId("verdicts").replaceChildren(...found.map(([check, status, , limit, text, advice]) => {
      const bad = status === "failed" || status === "warned";
      const line = make("p", { className: "verdict" }, mark(status, `${data.statuses[status]}: ${data.checks[check]}`), ` ${visible(text)}`);
      line.lang = "zh";
      if (bad) line.append(say(" (limit {limit}%). ", { limit: Number((100 * limit).toPrecision(3)) }), make("span", { className: "english", textContent: advice }));
      line.style.setProperty("--kind", inks[status]);
      return line;
    }));
  }

  // ---- the corpus that is chosen

  function drawCorpus(corpus) {
    const { rows, columns } = data.tables.categories, count = columns.indexOf("count");
    const most = Math.log(1 + Math.max(1, ...rows.filter((row) => row[0] === corpus).map((row) => row[count])));
    // Counts differ by powers of ten: the bars are logarithmic. A column in which this corpus has nothing, such as a split of another one, is left out.
    const bar = { count: (value) => [Math.log(1 + value) / most] };
    const tables = Object.keys(data.tables).filter((name) => name !== "table3");
    for (const figure of document.querySelectorAll("figure[data-corpus]")) figure.hidden = figure.dataset.corpus !== corpus;
    page.draw([() => drawVerdicts(corpus),
      ...tables.map((name) => () => show(name, { keep: (row) => row[0] === corpus, hide: ["corpus"], blank: true, ...(name === "categories" ? { size: 200, bar } : { size: 50 }) }))]);
  }

  function drawChooser() {
    byId("chooser").hidden = !several;
    const select = make("select", { onchange: () => drawCorpus(select.value) },
      ...data.corpora.map((name) => make("option", { value: name, textContent: name })));
    byId("chooser").append(make("label", { textContent: say("Shown below: ") }, select));
    drawCorpus(data.corpora[0]);
  }

  page.start([() => show("table3", { blank: true }), drawMatrix, drawChooser]);
})();
