// Fills the page of a comparison from the JSON block, with the tools of `page`. Charts are plain elements in the colours
// of the style sheet, so that they follow light and dark by themselves; the tables below them hold the same figures.
(() => {
  const { data, byId, spoken, visible, whole, make, table, lane, located } = page;
  const sheet = (name) => data.sheets[name];

  // ---- tables: values as papers print them

  const signed = (n, digits) => (n < 0 ? "−" : "+") + Math.abs(n).toFixed(digits);
  const prints = {
    count: whole,
    change: (n) => (n < 0 ? "−" : n > 0 ? "+" : "") + whole(Math.abs(n)),
    share: (n) => (100 * n).toFixed(2),
    points: (n) => signed(100 * n, 2),
    percent: (n) => `${signed(n, 1)}%`,
    p: (n) => n < 0.001 ? Number(n.toPrecision(3)).toString() : n.toFixed(3),
  };

  function sheetTable(name, empty, size) {
    const { title, columns, kinds, rows, best } = sheet(name);
    const bold = new Map(best.map(([row, column]) => [`${row} ${column}`, true]));
    const place = new Map(rows.map((row, i) => [row, i]));
    const shown = columns.map((column, i) => ({
      key: i, title: column.replaceAll("_", " "), head: !i, zh: kinds[i] === "text", print: prints[kinds[i]],
      show: name === "errors" ? spoken : visible,
      best: (row) => bold.has(`${place.get(row)} ${i}`),
      // Fewer false positives are no worse: only differences of scores are coloured.
      sign: kinds[i] === "points" && !["low", "high"].includes(column),
    }));
    table(`table-${name}`, title, shown, rows, empty, size);
  }

  // ---- charts

  let browser;
  const ink = (i) => i ? charts.ink(i - 1) : "var(--right)"; // the baseline is grey

  function figure(home, role, caption, ...content) {
    const box = make("div", { role, ariaLabel: caption }, ...content);
    home.append(make("figcaption", { textContent: caption }), box);
  }

  const { part } = charts;

  function drawErrors() {
    const { title, rows } = sheet("errors");
    const types = rows.slice(0, -1); // the last row is their sum
    const bars = charts.bars(types.map((row) => ({ name: spoken(row[0]), onclick: () => {
      browser.choose({ type: row[0] });
      byId("sentences").scrollIntoView();
    },
      bars: data.runs.map((_, i) => ({ value: row[data.counts[i]], text: whole(row[data.counts[i]]), colour: ink(i) })) })));
    figure(byId("chart-errors"), "group", title, charts.legend(data.runs.map((name, i) => [name, ink(i)])), bars);
    sheetTable("errors", "No errors.");
  }

  function drawCategories() {
    const home = byId("charts-categories");
    for (const { run, rows, of } of data.forests) {
      const low = Math.min(0, ...rows.map((row) => row[2])), high = Math.max(0, ...rows.map((row) => row[3]));
      const place = (value) => `${100 * (value - low) / (high - low || 1)}%`;
      const forest = make("div", { className: "forest" });
      for (const [category, difference, from, to, sure] of rows) {
        const track = make("span", { className: `track ${difference > 0 ? "up" : "down"}` }, part("zero", { left: place(0) }),
          part("range", { left: place(from), width: `${100 * (to - from) / (high - low || 1)}%` }), part(sure ? "dot sure" : "dot", { left: place(difference) }));
        track.title = `${category}: ${prints.points(difference)} [${prints.points(from)}, ${prints.points(to)}]`;
        forest.append(make("span", { className: "name", textContent: visible(category), lang: "zh" }), track,
          make("span", { className: "number", textContent: prints.points(difference) }));
      }
      const box = make("figure");
      home.append(box);
      const shown = rows.length === of ? `${of} categories` : `the ${rows.length} most changed of ${of} categories`;
      figure(box, "img", `${run} against ${data.runs[0]}: points of F1 with their intervals, ${shown}; filled where significant after Holm's correction`, forest);
    }
    sheetTable("categories", data.runs.length > 1 ? "No categories." : "There is no second run.");
  }

  // ---- changed sentences: gold and both answers, what is wrong in them marked

  function sentence([run, change, number, goldWrong, before, beforeWrong, after, afterWrong]) {
    const [id, text, gold] = data.sentences[number];
    const characters = [...text];
    const sides = [["gold", "gold", gold, goldWrong, "--gold"], ["said", data.runs[0], before, beforeWrong, "--said"], ["said", data.runs[run], after, afterWrong, "--said"]];
    const kind = make("span", { className: "kind", textContent: change ? "gained" : "lost" });
    kind.style.setProperty("--kind", change ? "var(--gold)" : "var(--said)");
    return make("div", { className: "example", role: "article" },
      make("p", { className: "head" }, kind, make("span", { textContent: data.runs[run], lang: "zh" }), make("span", { className: "id", textContent: id })),
      ...sides.map(([name, title, entities, wrong, colour]) => make("div", { className: `lane ${name}` }, make("b", { textContent: title, title }),
        entities.length ? lane(characters, located(characters, entities, wrong), colour) : make("span", { lang: "zh", textContent: text || "(no entities)" }))));
  }

  function drawSentences() {
    const changes = { 1: "gained: wrong → right", 0: "lost: right → wrong" };
    const entries = data.flips.map(([run, change, number, , before, , after, , types]) => {
      const [id, text, gold] = data.sentences[number];
      const entities = [...gold, ...before, ...after];
      return { keys: { run: [String(run)], change: [String(change)], type: types, category: [...new Set(entities.map((e) => e[1]))] },
        text: () => [id, text, ...entities.flatMap((e) => [e[0], e[1]])].join("\n") };
    });
    const choices = [{ name: "run", title: "Run", text: (i) => data.runs[i] }, { name: "change", title: "Change", text: (i) => changes[i] }, { name: "type", title: "Error type", text: spoken }, { name: "category", title: "Category" }];
    browser = page.browser("sentences", entries, choices, (i) => sentence(data.flips[i]), data.kept);
  }

  function drawTables() {
    sheetTable("models", "");
    sheetTable("tests", "There is no second run.");
    sheetTable("primaries", "No entities.");
    if (data.sheets.human) sheetTable("human", "");
    if (data.runs.length < 2) sheetTable("config", "There is no second run.");
    else sheetTable("config", data.unknown ? "Not known: a predictions file has no configuration." : "Nothing: the configurations are the same.");
  }

  page.draw([drawTables, drawErrors, drawCategories, drawSentences]);
  document.documentElement.dataset.ready = "yes";
})();
