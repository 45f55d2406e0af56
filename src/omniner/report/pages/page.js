// What the pages share: tables, sentences with their entities marked, a browser of such sentences, a line that says when something could not
// be drawn. Data becomes text only (textContent), never markup; nothing is stored or fetched, so a page also works inside a sandboxed frame.
"use strict";
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  // A text in the language of the page, with {names} filled in.
  const say = (text, values = {}) => (data.words[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const spoken = (name) => data.words[name] ?? name; // the name of an error type
  // Blanks at the ends, which no reader would see, are errors of their own here.
  const visible = (text) => text.replace(/^[\s\u200b\ufeff]+|[\s\u200b\ufeff]+$/g, (blanks) => "␣".repeat(blanks.length));
  // Names of runs are long: they may break behind these marks.
  const breakable = (text) => text.split(/(?<=[_./-])/).flatMap((piece, i) => i ? [make("wbr"), piece] : [piece]);
  const whole = (n) => n.toLocaleString("en");

  function fault(message) {
    const box = byId("fault");
    box.hidden = false;
    box.textContent = say("A part of this page could not be drawn: {message}", { message });
  }
  window.addEventListener("error", (event) => fault(event.message));

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // ---- tables: sorted by a click on the header, one page of rows in the document at a time

  function pager(count, size, show) {
    let page = 0;
    const status = make("span", { ariaLive: "polite" });
    const turn = (by) => make("button", { type: "button", className: "button", textContent: by < 0 ? say("‹ Previous") : say("Next ›"),
      onclick: () => draw(page + by) });
    const [back, next] = [turn(-1), turn(1)];
    const box = make("div", { className: "pager" }, back, status, next);
    function draw(to) {
      const total = count();
      page = Math.max(0, Math.min(to, Math.ceil(total / size) - 1));
      show(page * size, Math.min(total, (page + 1) * size));
      const [first, last] = [page * size + 1, Math.min(total, (page + 1) * size)].map(whole);
      status.textContent = total ? say("{first}–{last} of {total}", { first, last, total: whole(total) }) : "";
      back.disabled = page === 0;
      next.disabled = (page + 1) * size >= total;
      box.hidden = total <= size;
    }
    return { box, draw };
  }

  // Values as papers print them, by the kind of their column. A column of counts has as many decimals as its longest number, at most 4.
  const signed = (n, text) => (n < 0 ? "−" : n > 0 ? "+" : "") + text;
  const formats = {
    change: (n) => signed(n, whole(Math.abs(n))),
    figure: (n) => n.toFixed(4),
    share: (n) => (100 * n).toFixed(2),
    points: (n) => (n < 0 ? "−" : "+") + Math.abs(100 * n).toFixed(2),
    percent: (n) => `${signed(n, Math.abs(n).toFixed(1))}%`,
    p: (n) => n < 0.001 ? Number(n.toPrecision(3)).toString() : n.toFixed(3),
  };

  function counts(rows, key) {
    const decimals = (n) => (String(n).split(".")[1] ?? "").length;
    const most = Math.min(4, Math.max(0, ...rows.map((row) => typeof row[key] === "number" ? decimals(row[key]) : 0)));
    return (n) => n.toLocaleString("en", { minimumFractionDigits: most, maximumFractionDigits: most });
  }

  function cell(row, { key, head, format, kind, name }, { act, bar = {}, beside = {}, spoken: said = [], worse = [] }, best, place) {
    const value = row[key], number = typeof value === "number";
    const node = make(head ? "th" : "td", head ? { scope: "row" } : {});
    const text = number ? format(value) : said.includes(name) ? visible(value.replace(/^[a-z_]+/, spoken)) : visible(value) || (name === "surface" ? say("(empty)") : "");
    if (HAN.test(text)) node.lang = "zh";
    node.className = number || kind !== "text" ? value ? "number" : "number zero" : LONG_WORD.test(text) ? "text long" : "text";
    if (best.has(key)) node.classList.add("best");
    // More of the one or the other is neither better nor worse by itself: differences of scores are coloured, and what a table says of.
    const falling = worse.includes(kind);
    if (number && value && (falling || kind === "points") && !["low", "high"].includes(name)) node.classList.add(value > 0 === falling ? "down" : "up");
    if (name in bar) {
      const [share, colour] = bar[name](value, row);
      node.classList.add("bar");
      node.style.setProperty("--part", `${100 * share}%`);
      if (colour) node.style.setProperty("--bar", colour);
    }
    if (head && act) node.append(make("button", { type: "button", textContent: text, onclick: () => act(row) }));
    else node.textContent = text;
    if (name in beside && row[place(beside[name])]) node.append(" ", make("span", { className: "english", lang: "en", textContent: row[place(beside[name])] }));
    return node;
  }

  const HAN = /\p{Script=Han}/u;
  const LONG_WORD = /[^\s\p{Script=Han}]{30}/u; // it may break anywhere, other words never do
  const FINDER = 15; // a table of so many rows can be searched

  // Shows a table of the data in its place. Options, by names of columns:
  //   keep(row): whether a row is shown; hide: columns left out (true: those without a value, too); size: rows at a time;
  //   act(row): what a click on the head of a row does; spoken: columns that begin with a type, whose _ is read as +; worse: kinds of columns where more is worse; heads(name, title): another title;
  //   beside: column -> one whose text follows in it; bar: column -> (value, row) => [share of the width, colour].
  function show(name, options = {}) {
    const home = byId(`table-${name}`), { title: caption, columns: names, heads: headings, kinds, rows: all, best, empty } = data.tables[name];
    const { keep, hide = [], size = 100, heads: titled = (column, head) => head, blank = false } = options;
    const place = (column) => names.indexOf(column);
    const rows = keep ? all.filter(keep) : [...all];
    const bold = new Map(all.map((row, i) => [row, new Set(best.filter(([at]) => at === i).map(([, key]) => key))]));
    home.className = "table";
    home.replaceChildren();
    if (!rows.length) {
      home.append(make("p", { className: "none", textContent: empty }));
      return;
    }
    const columns = names.map((column, key) => ({ key, name: column, kind: kinds[key], format: formats[kinds[key]] ?? counts(rows, key) }))
      .filter((column) => !hide.includes(column.name) && (!blank || rows.some((row) => row[column.key] !== "")));
    columns[0].head = true;
    const body = make("tbody");
    let order = () => 0, shown = rows;
    const pages = pager(() => shown.length, size, (from, to) => {
      body.replaceChildren(...shown.slice(from, to).map((row) => make("tr", {}, ...columns.map((column) => cell(row, column, options, bold.get(row), place)))));
    });
    const finder = make("input", { type: "search", placeholder: say("find rows"), ariaLabel: say("Find rows: {caption}", { caption }) });
    finder.hidden = rows.length < FINDER;
    const arrange = () => {
      const word = finder.value.trim().toLowerCase();
      const found = rows.filter((row) => !word || columns.some(({ key }) => typeof row[key] === "string" && row[key].toLowerCase().includes(word)));
      shown = found.sort(order);
      pages.draw(0);
    };
    finder.addEventListener("input", arrange);
    const heads = columns.map(({ key, name: column }) => {
      const button = make("button", { type: "button" }, ...breakable(titled(column, headings[key])));
      const head = make("th", { scope: "col" }, button);
      const numeric = rows.some((row) => typeof row[key] === "number");
      const value = (row) => numeric && typeof row[key] !== "number" ? -Infinity : row[key];
      if (numeric) head.className = "number";
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const down = now ? now !== "descending" : numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rising = (a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0;
        order = down ? (a, b) => rising(b, a) : rising;
        arrange();
      });
      return head;
    });
    const title = make("caption", { textContent: caption });
    const grid = make("table", {}, title, make("thead", {}, make("tr", {}, ...heads)), body);
    home.append(make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, grid), pages.box);
    // The caption stands above the frame, where it does not scroll away; the one in the table is for screen readers.
    home.prepend(make("div", { className: "above" }, make("p", { textContent: caption, ariaHidden: "true" }), finder));
    title.className = "hidden";
    pages.draw(0);
  }

  // ---- sentences: places count code points, hence the arrays of characters

  const LONG = 400; // characters of a sentence that is shown in part
  const AROUND = 120; // characters shown on either side of what is wrong in it

  // One line per level, level 0 on top; a level without a span here is a gap in the colour of the panel.
  function underlines(over, ink) {
    const lines = [];
    for (let level = 0; level <= Math.max(...over.map((s) => s.level)); level++) {
      const span = over.find((s) => s.level === level);
      const shade = span ? span.wrong ? ink : "--right" : "--panel";
      lines.push(`0 ${2 + 4 * level}px var(${shade})`, `0 ${4 + 4 * level}px var(--panel)`);
    }
    return lines.join(",");
  }

  // The parts [from, to) of a sentence that are shown at first: of a long one what is around the wrong spans of its sides, or else around all.
  function excerpts(characters, sides) {
    if (characters.length <= LONG) return [[0, characters.length]];
    const placed = sides.flat().filter((s) => s.start !== null), wrong = placed.filter((s) => s.wrong);
    const spans = [...(wrong.length ? wrong : placed)].sort((a, b) => a.start - b.start);
    const parts = spans.length ? [] : [[0, 2 * AROUND]];
    for (const { start, end } of spans) {
      const last = parts.at(-1), [from, to] = [Math.max(0, start - AROUND), Math.min(characters.length, end + AROUND)];
      if (last && from <= last[1]) last[1] = Math.max(last[1], to);
      else parts.push([from, to]);
    }
    return parts;
  }

  // Shows the rest of a sentence in all lanes of its example.
  function unfold({ target }) {
    const example = target.closest(".example");
    for (const rest of example.querySelectorAll(".rest")) rest.hidden = false;
    for (const gap of example.querySelectorAll(".gap")) gap.remove();
  }

  // Segments between all borders, each with the spans over it; overlapping and nested spans stack their lines. Only what is in `parts` is shown at first.
  function lane(characters, spans, kind, parts) {
    const placed = spans.filter((s) => s.start !== null).sort((a, b) => a.start - b.start || b.end - a.end);
    const free = [];
    for (const span of placed) {
      span.level = free.findIndex((end) => end <= span.start);
      if (span.level < 0) span.level = free.length;
      free[span.level] = span.end;
    }
    const borders = [...new Set([0, characters.length, ...parts.flat(), ...placed.flatMap((s) => [s.start, s.end])])].sort((a, b) => a - b);
    const line = make("span", { lang: "zh" });
    let place = line;
    borders.slice(0, -1).forEach((from, i) => {
      const to = borders[i + 1];
      if (parts.some(([first, last]) => first <= from && to <= last)) place = line;
      else if (place === line) {
        place = make("span", { className: "rest", hidden: true });
        line.append(make("button", { type: "button", className: "gap", textContent: "…", title: say("Show the whole text"), onclick: unfold }), place);
      }
      const over = placed.filter((s) => s.start < to && s.end > from);
      const node = make("span", { textContent: characters.slice(from, to).join("") });
      if (over.length) {
        node.className = over.some((s) => s.wrong) ? "in wrong" : "in";
        node.style.boxShadow = underlines(over, kind);
        node.title = over.map((s) => `${s.text} / ${s.category}`).join("\n");
      }
      place.append(node);
      for (const s of over.filter((o) => o.end === to)) place.append(make("span", { className: s.wrong ? "tag wrong" : "tag", textContent: visible(s.category) }));
    });
    for (const s of spans.filter((o) => o.start === null)) {
      line.append(make("span", { className: "nowhere", title: say("this surface has no place in the sentence"), textContent: visible(s.text) || say("(empty)") },
        make("span", { className: s.wrong ? "tag wrong" : "tag", textContent: visible(s.category) })));
    }
    return line;
  }

  // Where only surfaces are known, the first occurrence that is still free is marked.
  function located(characters, entities, wrong) {
    const taken = new Set();
    return entities.map(([text, category, start, end], i) => {
      if (start === undefined && text) {
        const wanted = [...text];
        for (let at = 0; at + wanted.length <= characters.length && start === undefined; at++) {
          if (!taken.has(`${at} ${text} ${category}`) && wanted.every((c, k) => characters[at + k] === c)) [start, end] = [at, at + wanted.length];
        }
      }
      if (start !== undefined) taken.add(`${start} ${text} ${category}`);
      return { text, category, start: start ?? null, end: end ?? null, wrong: wrong.includes(i) };
    });
  }

  // ---- a browser of sentences: choices above, ten at a time below

  // The label of a choice with its select; options: [value, text].
  function chooser(title, options, all = say("all")) {
    const node = make("select", {}, make("option", { value: "", textContent: all }),
      ...options.map(([value, text]) => make("option", { value, textContent: text, lang: "zh" })));
    return [node, make("label", { textContent: title }, node)];
  }

  // counted({shown, total}): says how many are shown; entries: {keys: {name of a choice: its values}, text: what a search looks through, made when it is needed};
  // choices: {name, title, text: how a value is shown}; each value stands in the select with the number of its entries.
  // Gives {choose(values, cell)}: cell, of a heat map, is {name, total: how many it counts, keep(i): whether it counts an entry}.
  function browser(counted, entries, choices, show, kept) {
    const selects = choices.map(({ name, title, text = visible }) => {
      const counts = new Map();
      for (const entry of entries) for (const value of entry.keys[name]) counts.set(value, (counts.get(value) ?? 0) + 1);
      const options = [...counts].sort(([a], [b]) => a < b ? -1 : 1).map(([value, n]) => [value, `${text(value)} (${whole(n)})`]);
      return { name, ...Object.fromEntries(chooser(title, options).map((node, i) => [i ? "label" : "node", node])) };
    });
    const text = make("input", { type: "search", placeholder: say("sentence, surface, category, id") });
    const reset = make("button", { type: "button", className: "button", textContent: say("Clear"), onclick: () => choose({}) });
    const status = make("p", { className: "none", role: "status" });
    let cell;
    const leave = make("button", { type: "button", className: "button", lang: "zh", title: say("Show all examples again"), onclick: () => {
      cell = undefined;
      filter();
      reset.focus();
    } });
    const within = make("label", { textContent: say("Cell") }, leave);
    const list = make("div");
    let found = [], texts;
    const pages = pager(() => found.length, 10, (from, to) => list.replaceChildren(...found.slice(from, to).map(show)));
    function filter() {
      const word = text.value.trim().toLowerCase();
      if (word) texts ??= entries.map((entry) => entry.text().toLowerCase());
      const wanted = selects.filter(({ node }) => node.value);
      found = [...entries.keys()].filter((i) => (!word || texts[i].includes(word)) && (!cell || cell.keep(i))
        && wanted.every(({ name, node }) => entries[i].keys[name].includes(node.value)));
      const shown = whole(found.length);
      const said = cell ? say("Shown {shown} of {total} with {cell}.", { shown, total: whole(cell.total), cell: cell.name }) : counted({ shown, total: whole(entries.length) });
      status.textContent = `${said} ${kept}`;
      within.hidden = !cell;
      leave.textContent = cell ? `${cell.name} ✕` : "";
      pages.draw(0);
    }
    function choose(values, of) {
      cell = of;
      for (const { name, node } of selects) {
        const value = values[name] ?? "";
        if (value && ![...node.options].some((o) => o.value === value)) node.append(make("option", { value, textContent: value, lang: "zh" }));
        node.value = value;
      }
      text.value = values.text ?? "";
      filter();
    }
    for (const { node } of selects) node.addEventListener("change", filter);
    text.addEventListener("input", filter);
    byId("browser").append(make("div", { className: "controls", role: "search", ariaLabel: say("Filter") }, ...selects.map(({ label }) => label), within,
      make("label", { className: "wide", textContent: say("Text") }, text), reset), status, list, pages.box);
    filter();
    return { choose };
  }

  function draw(parts) {
    for (const part of parts) {
      try {
        part();
      } catch (error) {
        fault(error.message);
        console.error(error);
      }
    }
  }

  // Draws the page once its letters are there: text that was laid out before would keep the boxes of missing letters.
  async function start(parts) {
    await document.fonts.load("1em 'OmniNER Han'", "中");
    draw(parts);
    document.documentElement.dataset.ready = "yes";
  }

  // In a frame without an address of its own a link to #place would leave the page: scroll instead.
  for (const link of document.querySelectorAll("a[href^='#']")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const place = byId(link.getAttribute("href").slice(1));
      place.tabIndex = -1;
      place.focus({ preventScroll: true });
      place.scrollIntoView();
    });
  }

  // Paper is light, whatever the screen, and does not scroll: a table that is wider is printed smaller, a very wide one across the page.
  const PAPER = 718, ACROSS = 980; // pixels between the margins that page.css sets: of A4, and of Letter turned, each the narrower one
  const SMALLEST = 0.65; // a table that would be printed smaller than that is turned
  function print(begins) {
    document.documentElement.classList.toggle("printing", begins);
    const tables = [...document.querySelectorAll(".scroll > table, .frame > table")];
    for (const { style } of tables) Object.assign(style, { zoom: "", width: begins ? "min-content" : "" });
    const widths = tables.map((table) => table.offsetWidth);
    tables.forEach((table, i) => {
      const home = table.closest(":not(.two) > .table"); // what stands in a grid has no page of its own
      const across = begins && home !== null && PAPER / widths[i] < SMALLEST, paper = across ? ACROSS : PAPER;
      home?.classList.toggle("across", across);
      Object.assign(table.style, { zoom: begins && widths[i] > paper ? paper / widths[i] : "", width: "" });
    });
  }
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));

  return { data, byId, say, spoken, visible, breakable, whole, make, show, excerpts, lane, located, chooser, browser, draw, start };
})();
