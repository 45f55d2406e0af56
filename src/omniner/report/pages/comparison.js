// Fills the page of a comparison from the JSON block, with the tools of `page`.
(() => {
  const { data, byId, say, spoken, breakable, make, show, excerpts, lane, located } = page;
  let browser;

  function drawTables() {
    show("models", { blank: true }); // one run, or nobody to compare with, leaves columns without a value
    show("tests");
    show("errors", { spoken: ["type"], worse: ["change", "percent"], act: ([type]) => {
      browser.choose({ type: type === say("all") ? "" : type });
      byId("sentences").scrollIntoView();
    } });
    show("primaries");
    if (data.tables.human) show("human");
    else byId("table-human").remove();
    show("categories");
    show("config");
  }

  // ---- changed sentences: gold and both answers, what is wrong in them marked

  function sentence([run, change, number, goldWrong, before, beforeWrong, after, afterWrong]) {
    const [id, text, gold] = data.sentences[number];
    const characters = [...text];
    const sides = [["gold", say("gold"), gold, goldWrong, "--gold"], ["said", data.runs[0], before, beforeWrong, "--said"], ["said", data.runs[run], after, afterWrong, "--said"]]
      .map(([name, title, entities, wrong, ink]) => [name, title, located(characters, entities, wrong), ink]);
    const parts = excerpts(characters, sides.map(([, , spans]) => spans));
    const kind = make("span", { className: "kind", textContent: change ? say("gained") : say("lost") });
    kind.style.setProperty("--kind", change ? "var(--gold)" : "var(--said)");
    return make("div", { className: "example", role: "article" },
      make("p", { className: "head" }, kind, make("span", { textContent: data.runs[run], lang: "zh" }), make("span", { className: "id", textContent: id })),
      ...sides.map(([name, title, spans, ink]) => make("div", { className: `lane ${name}` }, make("b", {}, ...breakable(title)),
        text || spans.length ? lane(characters, spans, ink, parts) : make("span", { textContent: say("(no entities)") }))));
  }

  function drawSentences() {
    const changes = { 1: say("gained: wrong → right"), 0: say("lost: right → wrong") };
    const entries = data.flips.map(([run, change, number, , before, , after, , types]) => {
      const [id, text, gold] = data.sentences[number];
      const entities = [...gold, ...before, ...after];
      return { keys: { run: [String(run)], change: [String(change)], type: types, category: [...new Set(entities.map((e) => e[1]))] },
        text: () => [id, text, ...entities.flatMap((e) => [e[0], e[1]])].join("\n") };
    });
    const choices = [{ name: "run", title: say("Run"), text: (i) => data.runs[i] }, { name: "change", title: say("Change"), text: (i) => changes[i] }, { name: "type", title: say("Error type"), text: spoken }, { name: "category", title: say("Category") }];
    browser = page.browser((values) => say("{shown} of {total} sentences.", values), entries, choices, (i) => sentence(data.flips[i]), data.kept);
  }

  page.start([drawTables, drawSentences]);
})();
