// Fills the report of one run from the JSON block, with the tools of `page`.
(() => {
  const { data, byId, spoken, visible, whole, make, table, lane, located, chooser } = page;
  const MOST_CONFUSED = 20; // categories of the confusion chart unless more are asked for

  // ---- charts

  // drawing() gives [caption, content]; controls stand above. Gives a function that draws it again.
  function chart(id, drawing, ...controls) {
    const title = make("figcaption"), box = make("div");
    byId(id).append(...(controls.length ? [make("div", { className: "controls" }, ...controls)] : []), title, box);
    const again = () => {
      const [caption, content] = drawing();
      title.textContent = caption;
      box.replaceChildren(content);
    };
    again();
    return again;
  }

  function drawTypes() {
    chart("chart-types", () => [`${whole(data.totals.errors)} errors by type (ERRTA ${data.mode}). A click on a type shows its examples.`,
      charts.bars(data.types.map((t) => ({ name: spoken(t.name), onclick: () => showExamples({ type: t.name }),
        bars: [{ value: t.count, colour: t.colour, text: t.count ? `${whole(t.count)} (${(100 * t.share).toFixed(1)}%)` : "0" }] })))]);
    table("table-types", "What each type is, and the false negatives (FN) and positives (FP) it accounts for",
      [{ key: 0, title: "type", head: true, show: spoken }, { key: 1, title: "errors" }, { key: 2, title: "share", digits: 4 },
        { key: 3, title: "FN" }, { key: 4, title: "FP" }, { key: 5, title: "meaning" }],
      data.types.map((t) => [t.name, t.count, t.share, t.fn, t.fp, t.meaning]), "No errors.");
  }

  function drawHeat() {
    const types = data.types.map((t) => t.name);
    const { columns, rows } = data.tables.errta_by_category;
    const { names: primaries, counts } = data.heat;
    if (primaries.length) {
      const [primary, label] = chooser("Categories of", primaries.map((name) => [name, visible(name)]), "(all primaries)");
      const level = () => {
        if (!primary.value) return { names: primaries, counts };
        const own = rows.filter((row) => data.primary[row[0]] === primary.value);
        return { names: own.map((row) => row[0]), counts: own.map((row) => types.map((name) => row[columns.indexOf(name)])) };
      };
      const again = chart("chart-heat", () => {
        const { names, counts } = level(), below = primary.value;
        const caption = below ? "Errors by type and category. A click shows the examples." : "Errors by type and primary. A click opens the primary's categories.";
        return [caption, charts.heat(caption, "", names, types.map(spoken), counts, (i, j) => `${names[i]}\n${spoken(types[j])}: ${whole(counts[i][j])}`, (i, j) => {
          if (below) return showExamples({ type: types[j], category: names[i] });
          primary.value = names[i];
          again();
          byId("chart-heat").querySelector(".heat button")?.focus();
        })];
      }, label);
      primary.addEventListener("change", again);
    }
    table("table-by-category", "Errors by type and category; an error counts for its gold category, or the predicted one where nothing was there",
      columns.map((name, i) => ({ key: i, title: spoken(name), zh: !i, head: !i })), rows, "No errors.");
  }

  // Categories by what is chosen: the most confused ones, all, or those of one primary and what they are confused with.
  function confusionView(chosen) {
    const { names, pairs } = data.confusion;
    const primary = chosen.startsWith("of ") ? chosen.slice(3) : null;
    const within = (i) => data.primary[names[i]] === primary;
    const wanted = primary === null ? pairs : pairs.filter(([gold, said]) => within(gold) || within(said));
    const most = chosen === "all" ? names.length : primary === null ? MOST_CONFUSED : 0;
    const kept = primary === null ? [...names.keys()].slice(0, most) : [...new Set(wanted.flatMap(([gold, said]) => [gold, said]))];
    kept.sort((a, b) => names[a] < names[b] ? -1 : 1);
    const place = new Map(kept.map((i, at) => [i, at]));
    const counts = kept.map(() => kept.map(() => 0));
    for (const [gold, said, n] of wanted) if (place.has(gold) && place.has(said)) counts[place.get(gold)][place.get(said)] = n;
    return { names: kept.map((i) => names[i]), counts };
  }

  function drawConfusion() {
    const { names } = data.confusion;
    if (names.length) {
      const primaries = [...new Set(names.map((name) => data.primary[name]))].sort();
      const options = [...(names.length > MOST_CONFUSED ? [["all", `all ${names.length} confused categories`]] : []), ...primaries.map((name) => [`of ${name}`, visible(name)])];
      const [choice, label] = chooser("Between", options, `the ${Math.min(MOST_CONFUSED, names.length)} most confused categories`);
      const again = chart("chart-confusion", () => {
        const { names, counts } = confusionView(choice.value);
        const caption = `Gold category (rows) answered as another one (columns): ${whole(counts.flat().reduce((a, b) => a + b, 0))} of ${whole(data.totals.confusions)} confusions. A click shows the examples.`;
        return [caption, charts.heat(caption, "predicted →\ngold ↓", names, names, counts, (i, j) => `gold ${names[i]}\npredicted ${names[j]}: ${whole(counts[i][j])}`,
          (i, j) => showExamples({ category: names[i], text: names[j] }))];
      }, label);
      choice.addEventListener("change", again);
    }
    table("table-pairs", "Most frequent confused pairs",
      [{ key: 0, title: "gold", zh: true, head: true }, { key: 1, title: "predicted", zh: true }, { key: 2, title: "count" }, { key: 3, title: "such as", zh: true }],
      data.tables.confusion_pairs.rows, "No entity got another category.", 25);
    table("table-surfaces", "Surfaces most often wrong",
      [{ key: 0, title: "surface", zh: true, head: true }, { key: 1, title: "what", zh: true, show: (what) => what.replace(/^[a-z_]+/, spoken) }, { key: 2, title: "count" }],
      data.tables.confused_surfaces.rows, "No errors.", 25);
  }

  function drawScores() {
    const scores = (first) => ["precision", "recall", "F1", "gold", "TP", "FP", "FN"].map((title, i) =>
      ({ key: first + i, title, digits: i < 3 ? 4 : 0, bar: i === 2 }));
    const p = data.tables.primaries;
    table("table-primaries", `${p.rows.length} primaries: the whole category must be right; relaxed F1 asks for the primary only`,
      [{ key: 0, title: "primary", zh: true, head: true, beside: 1 }, ...scores(2), { key: 11, title: "relaxed F1", digits: 4 }], p.rows, "No entities.");
    const c = data.tables.categories;
    table("table-categories", `${c.rows.length} categories (click a heading to sort)`,
      [{ key: 0, title: "category", zh: true, head: true, beside: 1 }, ...scores(3)], c.rows, "No entities.");
  }

  function drawLists() {
    table("table-annotation", "Gold labels other than the usual one of their surface. Where the model gives the usual label too, look at the gold first.",
      [{ key: 0, title: "surface", zh: true, head: true }, { key: 1, title: "gold here", zh: true }, { key: 2, title: "usually", zh: true }, { key: 3, title: "share of usual", digits: 4 },
        { key: 4, title: "seen" }, { key: 5, title: "otherwise here" }, { key: 6, title: "model says usual" }, { key: 7, title: "sentence" }, { key: 8, title: "text", zh: true }],
      data.tables.suspected_annotation.rows.map((row, i) => [...row, data.suspects[i]]), "No surface has one usual label and another one here.", 25);
    table("table-failures", "Model texts that were not read as they stand; failed ones count as empty answers unless the signature says otherwise",
      [{ key: 0, title: "sentence", head: true }, { key: 1, title: "status" }, { key: 2, title: "reason" }, { key: 3, title: "model text", zh: true }],
      data.tables.parse_failures.rows, "Every answer was read as it stands.", 10);
    table("table-issues", "What readers and scorer could not take as it was, by code", [{ key: 0, title: "code", head: true }, { key: 1, title: "count" }],
      data.issues, "No issues.");
  }

  function drawCurves() {
    const lines = Object.entries(data.curves).filter(([, points]) => points.some(([, value]) => value !== null));
    const panels = [["curves-loss", "Loss over optimizer steps", lines.filter(([name]) => name.includes("loss"))],
      ["curves-scores", "Scores over optimizer steps", lines.filter(([name]) => !name.includes("loss"))]];
    const drawn = panels.filter(([, , some]) => some.length);
    if (drawn.length) charts.lines(drawn).then(() => { document.documentElement.dataset.curves = "yes"; }, page.fault);
  }

  // ---- examples: both lanes show the sentence

  function example([type, sentence, goldWrong, saidWrong]) {
    const [id, text, gold, said] = data.sentences[sentence];
    const characters = [...text];
    const sides = [["gold", "gold", gold, goldWrong, "--gold"], ["said", "model", said, saidWrong, "--said"]];
    const names = (side, wrong) => wrong.map((i) => visible(side[i][1])).join(" + ") || "nothing";
    const kind = make("span", { className: "kind", textContent: spoken(data.types[type].name) });
    kind.style.setProperty("--kind", data.types[type].colour);
    return make("div", { className: "example", role: "article" },
      make("p", { className: "head" }, kind, make("span", { lang: "zh", textContent: `${names(gold, goldWrong)} → ${names(said, saidWrong)}` }),
        make("span", { className: "id", textContent: id })),
      ...sides.map(([name, title, entities, wrong, ink]) => {
        const row = make("div", { className: `lane ${name}` }, make("b", { textContent: title }));
        const words = entities.length ? lane(characters, located(characters, entities, wrong), ink) : make("span", { lang: "zh", textContent: text });
        row.append(words);
        return row;
      }));
  }

  const entries = data.examples.map(([type, sentence, goldWrong, saidWrong]) => {
    const [id, text, gold, said] = data.sentences[sentence];
    const involved = [...goldWrong.map((i) => gold[i]), ...saidWrong.map((i) => said[i])];
    const categories = [...new Set(involved.map((e) => e[1]))];
    return { keys: { type: [data.types[type].name], primary: [...new Set(categories.map((c) => data.primary[c]))], category: categories },
      text: () => [id, text, ...involved.flatMap((e) => [e[0], e[1]])].join("\n") };
  });
  const choices = [{ name: "type", title: "Type", text: spoken }, { name: "primary", title: "Primary" }, { name: "category", title: "Category" }];
  const browser = page.browser("examples", entries, choices, (i) => example(data.examples[i]), data.kept);

  function showExamples(values) {
    browser.choose(values);
    byId("examples").scrollIntoView();
  }

  page.draw([drawScores, drawTypes, drawHeat, drawConfusion, drawLists, drawCurves]);
  document.documentElement.dataset.ready = "yes";
})();
