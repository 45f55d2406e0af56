// Fills the page of statistics from the JSON block, with the tools of `page`: Table 3 and the checks of all corpora once,
// everything else for the corpus that is chosen. Charts are plain elements in the colours of the style sheet.
(() => {
  const { data, byId, visible, whole, make, table } = page;
  const inks = { failed: "var(--said)", warned: "var(--other-3)", passed: "var(--other-1)", skipped: "var(--right)" };
  const percent = (n) => `${(100 * n).toFixed(2)}%`;
  const share = (n) => (100 * n).toFixed(2);
  // A column of numbers has as many decimals as its longest number, at most 4.
  function decimals(rows, key) {
    const digits = Math.max(0, ...rows.map((row) => typeof row[key] === "number" ? (String(row[key]).split(".")[1] ?? "").length : 0));
    const options = { minimumFractionDigits: Math.min(digits, 4), maximumFractionDigits: Math.min(digits, 4) };
    return (n) => n.toLocaleString("en", options);
  }
  const empties = {
    splits: "None.", categories: "No mentions.", primaries: "No primaries: no category has a part before a _.", seen: "No labelled split beside train.",
    surfaces: "No surface has two categories.", leaks: "One split only.", near: "No near duplicates, or too many to look for.",
    posts: "No post is in two splits.", repeats: "No text stands twice.", disagreements: "Equal texts have equal labels.",
    overlaps: "No mention lies over another one.", edges: "No mention begins or ends with white space or punctuation.",
    gaps: "Every category is frequent in train and in every labelled split.", odd: "No odd characters.",
    emoji: "No emoji.", outliers: "No outliers.", issues: "Everything could be read as it is.",
  };
  const several = data.corpora.length > 1;

  function sheetTable(name, corpus) {
    const { title, columns, kinds, rows } = data.sheets[name];
    byId(`table-${name}`).replaceChildren();
    const kept = corpus === undefined ? rows : rows.filter((row) => row[0] === corpus);
    // A column in which this corpus has nothing, such as a split of another one, is left out.
    const shown = columns.map((column, i) => ({
      key: i, title: column.replaceAll("_", " "), zh: kinds[i] === "text", print: kinds[i] === "share" ? share : decimals(kept, i), show: visible,
    })).filter(({ key }) => (key || corpus === undefined) && kept.some((row) => row[key] !== ""));
    if (shown.length) shown[0].head = true;
    table(`table-${name}`, title, shown, kept, empties[name] ?? "None.", 50);
  }

  // ---- checks

  function mark(status, text) {
    const node = make("span", { className: "kind", textContent: text });
    node.style.setProperty("--kind", inks[status]);
    return node;
  }

  function drawMatrix() {
    byId("overview").hidden = !several;
    const checks = data.verdicts[data.corpora[0]].map(([check]) => check);
    const head = make("tr", {}, make("th", { scope: "col", textContent: "check" }),
      ...data.corpora.map((name) => make("th", { scope: "col", textContent: name })));
    const rows = checks.map((check, i) => make("tr", {}, make("th", { scope: "row", textContent: check.replaceAll("_", " ") }),
      ...data.corpora.map((name) => {
        const [, status, value] = data.verdicts[name][i];
        return make("td", {}, mark(status, status === "skipped" ? "–" : percent(value)));
      })));
    const legend = make("p", { className: "legend" }, ...data.statuses.map((status) => mark(status, status)));
    byId("matrix").append(legend, make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Checks of all corpora" },
      make("table", { className: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows))));
  }

  function drawVerdicts(corpus) {
    const order = (row) => data.statuses.indexOf(row[1]);
    const found = [...data.verdicts[corpus]].sort((a, b) => order(a) - order(b));
    byId("verdicts").replaceChildren(...found.map(([check, status, , limit, text, advice]) => {
      const bad = status === "failed" || status === "warned";
      const line = make("p", { className: "verdict" }, mark(status, `${status}: ${check.replaceAll("_", " ")}`), ` ${visible(text)}`);
      line.lang = "zh";
      if (bad) line.append(` (limit ${Number((100 * limit).toPrecision(3))}%). `, make("span", { className: "english", textContent: advice }));
      line.style.setProperty("--kind", inks[status]);
      return line;
    }));
  }

  // ---- charts

  function drawCategories(corpus) {
    const rows = data.charts[corpus].categories;
    const home = byId("chart-categories");
    const caption = "Mentions by category; the bars are logarithmic";
    const most = Math.log(1 + Math.max(1, ...rows.map(([, count]) => count)));
    const bars = make("div", { className: "bars", role: "img", ariaLabel: caption });
    for (const [name, count] of rows) {
      const fill = make("i", { className: "fill" });
      Object.assign(fill.style, { width: `${100 * Math.log(1 + count) / most}%`, background: "var(--accent)" });
      bars.append(make("span", { className: "name", textContent: visible(name), lang: "zh" }), make("span", { className: "track" }, fill),
        make("span", { className: "number", textContent: whole(count) }));
    }
    const content = rows.length > 20 ? make("details", {}, make("summary", { textContent: caption }), bars) : bars;
    home.replaceChildren(...(rows.length > 20 ? [] : [make("figcaption", { textContent: caption })]), content);
  }

  function drawLengths(corpus) {
    const { edges, lengths } = data.charts[corpus];
    const most = Math.max(0, ...Object.values(lengths).flat());
    const caption = "Characters of a sentence: share of the sentences in classes of equal width; the last one holds all longer ones";
    const last = edges.length - 2;
    const span = (i) => {
      if (i === last) return `${whole(edges[i])} or more characters`;
      const [from, to] = [edges[i], edges[i + 1] - 1];
      return from === to ? `${whole(from)} characters` : `${whole(from)} to ${whole(to)} characters`;
    };
    const charts = Object.entries(lengths).map(([split, shares]) => {
      const chart = make("div", { className: "histogram", role: "img", ariaLabel: `${split}: ${caption}` }, ...shares.map((share, i) => {
        const bar = make("i", { title: `${span(i)}: ${percent(share)}` });
        bar.style.height = `${most ? 100 * share / most : 0}%`;
        return bar;
      }));
      const ends = make("div", { className: "ends" }, make("span", { textContent: "0" }), make("b", { textContent: split }), make("span", { textContent: `${whole(edges[last])} or more` }));
      return make("div", {}, chart, ends);
    });
    byId("chart-lengths").replaceChildren(make("figcaption", { textContent: caption }), make("div", { className: "histograms" }, ...charts));
  }

  // ---- the corpus that is chosen

  function drawCorpus(corpus) {
    page.draw([() => drawVerdicts(corpus), () => drawCategories(corpus), () => drawLengths(corpus),
      ...Object.keys(empties).map((name) => () => sheetTable(name, corpus))]);
  }

  function drawChooser() {
    byId("chooser").hidden = !several;
    const select = make("select", { onchange: () => drawCorpus(select.value) },
      ...data.corpora.map((name) => make("option", { value: name, textContent: name })));
    byId("chooser").append(make("label", { textContent: "Shown below: " }, select));
    drawCorpus(data.corpora[0]);
  }

  page.draw([() => sheetTable("table3"), drawMatrix, drawChooser]);
  // Paper is light, whatever the screen.
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => document.documentElement.classList.toggle("printing", printing));
  }
  document.documentElement.dataset.ready = "yes";
})();
