// What the pages share: tables, sentences with their entities marked, a browser of such sentences, a line that says when
// something could not be drawn. Data becomes text only (textContent), never markup; nothing is stored or fetched, so a page also works inside
// a sandboxed frame.
"use strict";
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const spoken = (name) => name.replaceAll("_", " + ");
  // Blanks at the ends, which no reader would see, are errors of their own here.
  const visible = (text) => text.replace(/^[\s\u200b\ufeff]+|[\s\u200b\ufeff]+$/g, (blanks) => "␣".repeat(blanks.length));
  const whole = (n) => n.toLocaleString("en");

  function fault(message) {
    const box = byId("fault");
    box.hidden = false;
    box.textContent = `A part of this page could not be drawn: ${message}`;
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
    const turn = (by) => make("button", { type: "button", className: "button", textContent: by < 0 ? "‹ Previous" : "Next ›",
      onclick: () => draw(page + by) });
    const [back, next] = [turn(-1), turn(1)];
    const box = make("div", { className: "pager" }, back, status, next);
    function draw(to) {
      const total = count();
      page = Math.max(0, Math.min(to, Math.ceil(total / size) - 1));
      show(page * size, Math.min(total, (page + 1) * size));
      status.textContent = total ? `${whole(page * size + 1)}–${whole(Math.min(total, (page + 1) * size))} of ${whole(total)}` : "";
      back.disabled = page === 0;
      next.disabled = (page + 1) * size >= total;
      box.hidden = total <= size;
    }
    return { box, draw };
  }

  function cell(value, column, row) {
    const number = typeof value === "number";
    const node = make(column.head ? "th" : "td");
    if (column.head) node.scope = "row";
    if (column.zh) node.lang = "zh";
    node.textContent = number ? column.print ? column.print(value) : column.digits ? value.toFixed(column.digits) : whole(value) : column.show ? column.show(value) : column.zh ? visible(value) : value;
    if (number) node.className = value ? "number" : "number zero";
    if (column.best?.(row)) node.classList.add("best");
    if (number && column.sign && value) node.classList.add(value > 0 ? "up" : "down");
    if (column.bar) {
      node.classList.add("bar");
      node.style.setProperty("--part", `${100 * value}%`);
    }
    if (column.beside && row[column.beside]) node.append(" ", make("span", { className: "english", lang: "en", textContent: row[column.beside] }));
    return node;
  }

  const FINDER = 15; // a table of so many rows can be searched

  // columns: {best: whether it is so in a row, key: place in the row, title, zh, digits, bar, head, beside, show (a text), print (a number), sign}
  function table(id, caption, columns, rows, empty, size = 100) {
    const home = byId(id);
    home.className = "table";
    if (!rows.length) {
      home.append(make("p", { className: "none", textContent: empty }));
      return;
    }
    const body = make("tbody");
    let order = () => 0, shown = rows;
    const pages = pager(() => shown.length, size, (from, to) => {
      body.replaceChildren(...shown.slice(from, to).map((row) => make("tr", {}, ...columns.map((c) => cell(row[c.key], c, row)))));
    });
    const finder = make("input", { type: "search", placeholder: "find rows", ariaLabel: `Find rows: ${caption}` });
    finder.hidden = rows.length < FINDER;
    const arrange = () => {
      const word = finder.value.trim().toLowerCase();
      const found = rows.filter((row) => !word || columns.some((c) => typeof row[c.key] === "string" && row[c.key].toLowerCase().includes(word)));
      shown = found.sort(order);
      pages.draw(0);
    };
    finder.addEventListener("input", arrange);
    const heads = columns.map((column) => {
      const button = make("button", { type: "button", textContent: column.title });
      const head = make("th", { scope: "col" }, button);
      const numeric = rows.some((row) => typeof row[column.key] === "number");
      const value = (row) => numeric && typeof row[column.key] !== "number" ? -Infinity : row[column.key];
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

  // Segments between all borders, each with the spans over it; overlapping and nested spans stack their lines.
  function lane(characters, spans, kind) {
    const placed = spans.filter((s) => s.start !== null).sort((a, b) => a.start - b.start || b.end - a.end);
    const free = [];
    for (const span of placed) {
      span.level = free.findIndex((end) => end <= span.start);
      if (span.level < 0) span.level = free.length;
      free[span.level] = span.end;
    }
    const borders = [...new Set([0, characters.length, ...placed.flatMap((s) => [s.start, s.end])])].sort((a, b) => a - b);
    const line = make("span", { lang: "zh" });
    borders.slice(0, -1).forEach((from, i) => {
      const to = borders[i + 1];
      const over = placed.filter((s) => s.start < to && s.end > from);
      const node = make("span", { textContent: characters.slice(from, to).join("") });
      if (over.length) {
        node.className = over.some((s) => s.wrong) ? "in wrong" : "in";
        node.style.boxShadow = underlines(over, kind);
        node.title = over.map((s) => `${s.text} / ${s.category}`).join("\n");
      }
      line.append(node);
      for (const s of over.filter((o) => o.end === to)) line.append(make("span", { className: s.wrong ? "tag wrong" : "tag", textContent: visible(s.category) }));
    });
    for (const s of spans.filter((o) => o.start === null)) {
      line.append(make("span", { className: "nowhere", title: "this surface has no place in the sentence", textContent: visible(s.text) || "(empty)" },
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
  function chooser(title, options, all = "all") {
    const node = make("select", {}, make("option", { value: "", textContent: all }),
      ...options.map(([value, text]) => make("option", { value, textContent: text, lang: "zh" })));
    return [node, make("label", { textContent: title }, node)];
  }

  // entries: {keys: {name of a choice: its values}, text: what a search looks through, made when it is needed};
  // choices: {name, title, text: how a value is shown}; each value stands in the select with the number of its entries.
  function browser(noun, entries, choices, show, kept) {
    const selects = choices.map(({ name, title, text = visible }) => {
      const counts = new Map();
      for (const entry of entries) for (const value of entry.keys[name]) counts.set(value, (counts.get(value) ?? 0) + 1);
      const options = [...counts].sort(([a], [b]) => a < b ? -1 : 1).map(([value, n]) => [value, `${text(value)} (${whole(n)})`]);
      return { name, ...Object.fromEntries(chooser(title, options).map((node, i) => [i ? "label" : "node", node])) };
    });
    const text = make("input", { type: "search", placeholder: "sentence, surface, category, id" });
    const reset = make("button", { type: "button", className: "button", textContent: "Clear", onclick: () => choose({}) });
    const status = make("p", { className: "none", role: "status" });
    const list = make("div");
    let found = [], texts;
    const pages = pager(() => found.length, 10, (from, to) => list.replaceChildren(...found.slice(from, to).map(show)));
    function filter() {
      const word = text.value.trim().toLowerCase();
      if (word) texts ??= entries.map((entry) => entry.text().toLowerCase());
      const wanted = selects.filter(({ node }) => node.value);
      found = [...entries.keys()].filter((i) => (!word || texts[i].includes(word)) && wanted.every(({ name, node }) => entries[i].keys[name].includes(node.value)));
      status.textContent = `${whole(found.length)} of ${whole(entries.length)} ${noun}. ${kept}`;
      pages.draw(0);
    }
    function choose(values) {
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
    byId("browser").append(make("div", { className: "controls", role: "search", ariaLabel: `Filter the ${noun}` }, ...selects.map(({ label }) => label),
      make("label", { className: "wide", textContent: "Text" }, text), reset), status, list, pages.box);
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

  // A library that travels packed in the page: resolves when it has run.
  async function library(name) {
    await new Promise((resolve) => window.requestIdleCallback ? requestIdleCallback(resolve) : setTimeout(resolve));
    const packed = Uint8Array.from(atob(byId(`library-${name}`).textContent), (letter) => letter.charCodeAt(0));
    const script = make("script");
    script.textContent = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
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

  // Paper is light, whatever the screen.
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => document.documentElement.classList.toggle("printing", printing));
  }

  return { data, byId, spoken, visible, whole, make, pager, table, lane, located, chooser, browser, draw, library, fault };
})();
