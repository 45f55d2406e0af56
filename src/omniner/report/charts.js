// Bars and heat maps are tables with coloured cells: they follow light, dark and paper by themselves, and screen readers and
// the keyboard can walk them. Curves are drawn by Plotly.
const charts = (() => {
  const { byId, make, visible, whole } = page;
  const inks = ["--accent", "--said", "--other-1", "--other-2", "--other-3", "--other-4", "--right"];
  const ink = (i) => `var(${inks[i % inks.length]})`;
  const cut = (text, length) => { const c = [...visible(text)]; return c.length > length ? `${c.slice(0, length - 1).join("")}…` : c.join(""); };

  function part(className, style) {
    const node = make("i", { className });
    Object.assign(node.style, style);
    return node;
  }

  // items: [name, colour]
  function legend(items) {
    return make("div", { className: "legend" }, ...items.map(([name, colour]) => {
      const node = make("span", { textContent: visible(name), lang: "zh" });
      node.style.setProperty("--kind", colour);
      return node;
    }));
  }

  // groups: {name, onclick, bars: [{value, text, colour}]}
  function bars(groups) {
    const most = Math.max(1, ...groups.flatMap((group) => group.bars.map((bar) => bar.value)));
    return make("div", { className: "bars" }, ...groups.flatMap(({ name, onclick, bars }) => [
      ...bars.flatMap(({ value, text, colour }, i) => [
        i ? make("span") : make(onclick ? "button" : "span", { className: "name", textContent: name, ...(onclick ? { type: "button", onclick } : {}) }),
        make("span", { className: "track" }, part("fill", { width: `${100 * value / most}%`, background: colour })),
        make("span", { className: "number", textContent: text })]),
      make("span", { className: "group" })]));
  }

  // The colour follows the square root, so that rare ones can be seen beside frequent ones. describe(i, j) says what a cell
  // is, onclick(i, j) acts on it, the corner says what rows and columns are; the whole is one stop of the Tab key, arrows go from cell to cell.
  function heat(label, corner, rows, columns, counts, describe, onclick) {
    const most = counts.flat().reduce((a, b) => Math.max(a, b), 1);
    const upright = columns.length > 12;
    const table = make("table", { className: ["heat", upright && "upright", columns.length > 30 && "small"].filter(Boolean).join(" ") });
    const head = (scope, name, length) => make("th", { scope, title: name }, make("span", { textContent: cut(name, length), lang: "zh" }));
    const body = make("tbody", {}, ...rows.map((name, i) => make("tr", {}, head("row", name, 16), ...counts[i].map((n, j) => {
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
      make("thead", {}, make("tr", {}, make("td", { textContent: corner }), ...columns.map((name) => head("col", name, upright ? 14 : 16)))), body);
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
  }

  // ---- lines over steps, by Plotly: it is large, so it comes packed and is unpacked once the page is in use

  const onPaper = 680; // pixels that fit on A4 and on Letter
  const short = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const escaped = (text) => visible(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function settled(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function layout() {
    const printing = document.documentElement.classList.contains("printing");
    const axis = { automargin: true, fixedrange: true, zeroline: false, gridcolor: settled("--line"), linecolor: settled("--line") };
    return { height: 300, width: printing ? onPaper : undefined, autosize: !printing, margin: { l: 10, r: 16, t: 8, b: 50 }, dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: settled("--font"), size: 12, color: settled("--ink") },
      showlegend: true, legend: { orientation: "h", y: -0.18 }, hovermode: "x unified", hoverlabel: { font: { family: settled("--font") } },
      xaxis: { ...axis, tickformat: ",d" }, yaxis: axis };
  }

  // figures: [place, label, [[name, points], ...]], a point is [step, value or null].
  async function lines(figures) {
    const boxes = figures.map(([place, label, series]) => {
      const last = series.map(([name, points]) => `${name} ${short(points.findLast(([, y]) => y !== null)[1])}`);
      const box = make("div", { role: "img", ariaLabel: `${label}; last values: ${last.join(", ")}` });
      byId(place).append(make("figcaption", { textContent: label }), box);
      return box;
    });
    await page.library("plotly");
    const draw = () => figures.forEach(([, , series], i) => Plotly.react(boxes[i], series.map(([name, points], j) => ({
      type: "scatter", mode: points.length > 40 ? "lines" : "lines+markers", name: escaped(name), x: points.map(([step]) => step), y: points.map(([, y]) => y),
      line: { color: settled(inks[j % inks.length]), width: 2 } })), layout(), { displayModeBar: false, responsive: true }));
    draw();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    for (const event of ["beforeprint", "afterprint"]) window.addEventListener(event, draw);
  }

  return { part, ink, legend, bars, heat, lines };
})();
