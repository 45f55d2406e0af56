// Charts as plain elements in the colours of the style sheet: they follow light, dark and paper by themselves, a heat map
// is a table to a screen reader and to the keyboard, and no library has to be loaded.
const charts = (() => {
  const { make, visible, whole } = page;
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

  // ---- lines over steps

  function drawn(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function ticks(low, high) {
    const raw = (high - low || 1) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) found.push(at * step);
    return found;
  }

  const short = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });

  // series: [name, points], a point is [step, value or null]; pointing at a step tells the values there.
  function lines(label, series) {
    const [width, height, left, right, top, bottom] = [640, 260, 56, 28, 10, 26];
    const known = series.map(([, points]) => points.filter(([, y]) => y !== null));
    const span = (place) => known.flat().reduce(([low, high], point) => [Math.min(low, point[place]), Math.max(high, point[place])], [Infinity, -Infinity]);
    const [[x0, x1], [y0, y1]] = [span(0), span(1)];
    const x = (value) => left + (width - left - right) * (value - x0) / (x1 - x0 || 1);
    const y = (value) => height - bottom - (height - top - bottom) * (value - y0) / (y1 - y0 || 1);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "lines", role: "img",
      "aria-label": `${label}; last values: ${series.map(([name], i) => `${name} ${known[i].length ? short(known[i].at(-1)[1]) : "none"}`).join(", ")}` });
    for (const value of ticks(y0, y1)) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
        drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (const value of ticks(x0, x1)) svg.append(drawn("text", { x: x(value), y: height - 6, "text-anchor": "middle" }, whole(value)));
    series.forEach(([, points], i) => {
      let pen = "M";
      const path = points.map(([step, value]) => {
        if (value === null) { pen = "M"; return ""; }
        const move = `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
        return move;
      }).join("");
      const style = `stroke: ${ink(i)}; fill: ${ink(i)}`;
      svg.append(drawn("path", { d: path, style }));
      if (known[i].length <= 40) for (const [step, value] of known[i]) svg.append(drawn("circle", { cx: x(step), cy: y(value), r: 2.6, style }));
    });
    const cursor = drawn("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" });
    const told = make("p", { className: "none told", textContent: "Point at a step to read its values." });
    svg.append(cursor);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const wanted = x0 + ((event.clientX - box.left) * width / box.width - left) / (width - left - right) * (x1 - x0);
      const near = known.map((points) => points.reduce((best, point) => !best || Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best, null));
      const step = near.filter(Boolean).map((point) => point[0]).sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))[0];
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(step));
      cursor.setAttribute("visibility", "visible");
      told.textContent = `step ${whole(step)}: ${series.map(([name], i) => [name, near[i]]).filter(([, point]) => point?.[0] === step).map(([name, point]) => `${name} ${short(point[1])}`).join(", ")}`;
    });
    return make("div", {}, legend(series.map(([name], i) => [name, ink(i)])), svg, told);
  }

  return { part, ink, legend, bars, heat, lines };
})();
