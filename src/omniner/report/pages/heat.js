// Heat maps are tables with coloured cells: they follow light, dark and paper by themselves, and screen readers and the keyboard can walk them.
const heat = (() => {
  const { make, visible, whole } = page;
  const han = /\p{Script=Han}/u;
  const wide = /[\p{Script=Han}\u3000-\u30ff\uac00-\ud7a3\uff00-\uff60]/u; // takes two places in a line

  // Names in at most so many places, … for the middle of long ones, but never so that two become the same.
  function fitting(names, width) {
    const all = names.map((name) => [...visible(name)]);
    const places = (letter) => wide.test(letter) ? 2 : 1;
    const taken = (letters) => letters.reduce((sum, letter) => sum + places(letter), 0);
    const beginning = (letters, most) => {
      const end = letters.findIndex((letter) => (most -= places(letter)) < 0);
      return end < 0 ? letters : letters.slice(0, end);
    };
    const cut = (letters) => {
      if (taken(letters) <= width) return letters.join("");
      const head = beginning(letters, Math.floor(width / 2));
      return [...head, "…", ...beginning([...letters].reverse(), width - 1 - taken(head)).reverse()].join("");
    };
    const different = new Set(all.map((letters) => letters.join(""))).size;
    for (let found = all.map(cut); ; found = all.map(cut)) {
      if (new Set(found).size === different) return found;
      width += 1 + Math.floor(width / 8);
    }
  }

  // The colour follows the square root, so that rare ones can be seen beside frequent ones. describe(i, j) says what a cell
  // is, onclick(i, j) acts on it, the corner says what rows and columns are; the whole is one stop of the Tab key, arrows go from cell to cell.
  return function (label, corner, rows, columns, counts, describe, onclick) {
    const most = counts.flat().reduce((a, b) => Math.max(a, b), 1);
    const upright = columns.length > 12;
    const table = make("table", { className: ["heat", upright && "upright", columns.length > 30 && "small"].filter(Boolean).join(" ") });
    const head = (scope, name, text) => make("th", { scope, title: name }, make("span", { textContent: text, lang: "zh", className: han.test(name) ? "han" : "" }));
    const [sides, tops] = [fitting(rows, 32), fitting(columns, upright ? 28 : 32)];
    const body = make("tbody", {}, ...rows.map((name, i) => make("tr", {}, head("row", name, sides[i]), ...counts[i].map((n, j) => {
      const cell = make("td");
      if (rows === columns && i === j) cell.className = "diagonal";
      if (n) {
        const button = make("button", { type: "button", textContent: whole(n), title: describe(i, j), tabIndex: -1, onclick: () => onclick(i, j) });
        const level = Math.sqrt(n / most);
        button.style.setProperty("--level", `${(100 * level).toFixed(1)}%`);
        if (level > 0.75) button.className = "strong";
        cell.append(button);
      }
      return cell;
    }))));
    table.append(make("caption", { className: "hidden", textContent: label }),
      make("thead", {}, make("tr", {}, make("td", { textContent: corner }), ...columns.map((name, j) => head("col", name, tops[j])))), body);
    let stop = body.querySelector("button");
    if (stop) stop.tabIndex = 0;
    table.addEventListener("focusin", ({ target }) => {
      if (!body.contains(target)) return;
      stop.tabIndex = -1;
      stop = target;
      stop.tabIndex = 0;
    });
    table.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const from = event.target.closest("td");
      if (!step || !from) return;
      event.preventDefault();
      let [i, j] = [from.parentNode.sectionRowIndex, from.cellIndex], next;
      while (!next && body.rows[i += step[0]]?.cells[j += step[1]]) next = body.rows[i].cells[j].querySelector("button");
      next?.focus();
    });
    return make("div", { className: "frame" }, table);
  };
})();
