// Fills the report of one run from the JSON block, with the tools of `page`.
(() => {
  const { data, byId, say, spoken, visible, whole, make, show, excerpts, lane, located, chooser } = page;
  let browser;

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

  const colourOf = new Map(data.types.map(({ name, colour }) => [name, colour]));

  function drawTables() {
    const most = Math.max(1, ...data.tables.errta_counts.rows.map((row) => row[1]));
    const f1 = { f1: (value) => [value] };
    show("errta_counts", { act: ([type]) => showExamples({ type }), spoken: ["type"], bar: { count: (value, [type]) => [value / most, colourOf.get(type)] } });
    show("impossible_answers", { size: 10 });
    if (data.tables.primaries) show("primaries", { beside: { primary: "english" }, hide: ["english", "relaxed_precision", "relaxed_recall"], bar: f1 });
    show("categories", { beside: { category: "english" }, hide: ["english", "primary"], bar: f1 });
    show("units");
    show("overlap");
    if (data.tables.calibration) show("calibration", { bar: { precision: (value) => [value] } });
    show("errta_by_category", { heads: (type, title) => data.words[type] ?? title });
    show("confusion_pairs", { size: 25 });
    show("confused_surfaces", { size: 25, spoken: ["what"] });
    show("suspected_annotation", { size: 25 });
    show("parse_failures", { size: 10 });
    show("issues");
  }

  function drawHeat() {
    const types = data.types.map((t) => t.name);
    const { columns, rows } = data.tables.errta_by_category;
    const { names: primaries, counts } = data.heat;
    const examples = (i, j, names, counts) => showExamples({}, { name: `${spoken(types[j])} · ${visible(names[i])}`, total: counts[i][j],
      keep: (n) => involved(n).type === types[j] && involved(n).category === names[i] });
    if (primaries.length) {
      const [primary, label] = chooser(say("Categories of"), primaries.map((name) => [name, visible(name)]), say("(all primaries)"));
      const level = () => {
        if (data.has_levels && !primary.value) return { names: primaries, counts };
        const own = rows.filter((row) => !data.has_levels || data.primary[row[0]] === primary.value);
        return { names: own.map((row) => row[0]), counts: own.map((row) => types.map((name) => row[columns.indexOf(name)])) };
      };
      const again = chart("chart-heat", () => {
        const { names, counts } = level(), below = !data.has_levels || primary.value;
        const caption = below ? say("Errors by type and category. A click shows the examples.") : say("Errors by type and primary. A click opens the primary's categories.");
        return [caption, heat(caption, "", names, types.map(spoken), counts, (i, j) => `${names[i]}\n${spoken(types[j])}: ${whole(counts[i][j])}`, (i, j) => {
          if (below) return examples(i, j, names, counts);
          primary.value = names[i];
          again();
          byId("chart-heat").querySelector(".heat button")?.focus();
        })];
      }, ...(data.has_levels ? [label] : []));
      primary.addEventListener("change", again);
    }
  }

  // Categories by what is chosen: the most confused ones, all, or those of one primary and what they are confused with.
  function confusionView(chosen) {
    const { names, pairs } = data.confusion;
    const primary = chosen.startsWith("of ") ? chosen.slice(3) : null;
    const within = (i) => data.primary[names[i]] === primary;
    const wanted = primary === null ? pairs : pairs.filter(([gold, said]) => within(gold) || within(said));
    const most = chosen === "all" ? names.length : primary === null ? data.most_confused : 0;
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
      const options = [...(names.length > data.most_confused ? [["all", say("all {count} confused categories", { count: names.length })]] : []), ...primaries.map((name) => [`of ${name}`, visible(name)])];
      const [choice, label] = chooser(say("Between"), options, say("the {count} most confused categories", { count: Math.min(data.most_confused, names.length) }));
      const again = chart("chart-confusion", () => {
        const { names, counts } = confusionView(choice.value);
        const shown = whole(counts.flat().reduce((a, b) => a + b, 0));
        const caption = say("Gold category (rows) answered as another one (columns): {shown} of {total} confusions. A click shows the examples.", { shown, total: whole(data.confusion.total) });
        const described = (i, j) => say("gold {gold}\npredicted {predicted}: {count}", { gold: names[i], predicted: names[j], count: whole(counts[i][j]) });
        return [caption, heat(caption, say("predicted →\ngold ↓"), names, names, counts, described,
          (i, j) => showExamples({}, { name: say("gold {gold} → predicted {predicted}", { gold: visible(names[i]), predicted: visible(names[j]) }), total: counts[i][j],
            keep: (n) => involved(n).gold.includes(names[i]) && involved(n).said.includes(names[j]) }))];
      }, label);
      choice.addEventListener("change", again);
    }
  }

  // ---- examples: both lanes show the sentence

  // What is wrong in an example: its type, the category that it counts for, and the categories of both sides.
  function involved(n) {
    const [type, sentence, goldWrong, saidWrong] = data.examples[n];
    const [, , gold, said] = data.sentences[sentence];
    const sides = { gold: goldWrong.map((i) => gold[i][1]), said: saidWrong.map((i) => said[i][1]) };
    return { type: data.types[type].name, category: [...sides.gold, ...sides.said][0], ...sides };
  }

  function example([type, sentence, goldWrong, saidWrong]) {
    const [id, text, gold, said] = data.sentences[sentence];
    const characters = [...text];
    const sides = [["gold", say("gold"), located(characters, gold, goldWrong), "--gold"], ["said", say("model"), located(characters, said, saidWrong), "--said"]];
    const parts = excerpts(characters, sides.map(([, , spans]) => spans));
    const names = (side, wrong) => wrong.map((i) => visible(side[i][1])).join(" + ") || say("nothing");
    const kind = make("span", { className: "kind", textContent: spoken(data.types[type].name) });
    kind.style.setProperty("--kind", data.types[type].colour);
    return make("div", { className: "example", role: "article" },
      make("p", { className: "head" }, kind, make("span", { lang: "zh", textContent: `${names(gold, goldWrong)} → ${names(said, saidWrong)}` }),
        make("span", { className: "id", textContent: id })),
      ...sides.map(([name, title, spans, ink]) => make("div", { className: `lane ${name}` }, make("b", { textContent: title }), lane(characters, spans, ink, parts))));
  }

  function drawExamples() {
    const entries = data.examples.map(([type, sentence, goldWrong, saidWrong]) => {
      const [id, text, gold, said] = data.sentences[sentence];
      const involved = [...goldWrong.map((i) => gold[i]), ...saidWrong.map((i) => said[i])];
      const categories = [...new Set(involved.map((e) => e[1]))];
      return { keys: { type: [data.types[type].name], primary: [...new Set(categories.map((c) => data.primary[c]))], category: categories },
        text: () => [id, text, ...involved.flatMap((e) => [e[0], e[1]])].join("\n") };
    });
    const choices = [{ name: "type", title: say("Type"), text: spoken }, ...(data.has_levels ? [{ name: "primary", title: say("Primary") }] : []), { name: "category", title: say("Category") }];
    browser = page.browser((values) => say("{shown} of {total} examples.", values), entries, choices, (i) => example(data.examples[i]), data.kept);
  }

  function showExamples(values, cell) {
    browser.choose(values, cell);
    byId("examples").scrollIntoView();
  }

  page.start([drawTables, drawHeat, drawConfusion, drawExamples]);
})();
