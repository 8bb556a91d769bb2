"use strict";
(() => {
  // The theme follows the system until the button is used.
  const root = document.documentElement;
  const button = document.querySelector(".theme");
  const night = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (night.matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; say(); });
  night.addEventListener("change", say);
  button.hidden = false;
  say();

  // Tables sort by the buttons in their headings; rows without a value stay last.
  const status = document.querySelector("#status");
  for (const table of document.querySelectorAll("table.sorts")) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const label = head.firstElementChild;
      label.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const number = head.dataset.type === "number";
        const key = row => row.cells[column].dataset.key;
        const order = (a, b) => {
          const one = key(a), two = key(b);
          if (one === "" || two === "") return (one === "") - (two === "");
          const by = number ? one - two : one.localeCompare(two, undefined, { numeric: true });
          return up ? by : -by;
        };
        const body = table.querySelector("tbody.sortable");
        body.append(...[...body.rows].sort(order));
        status.textContent = `Sorted by ${label.textContent}, ${up ? "ascending" : "descending"}.`;
      });
    });
  }

  // Charts show the values under the pointer, or those selected by the arrow keys.
  const tip = document.querySelector(".tip");
  let active = null;  // the chart that shows values; only one does
  for (const event of ["scroll", "resize"]) {
    addEventListener(event, () => { if (active) active.place(); }, { passive: true, capture: true });
  }
  const line = (text, tag) => {
    const part = document.createElement(tag);
    part.textContent = text;
    return part;
  };
  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = [...plot.querySelectorAll("[data-tip]")];
    if (!marks.length) continue;
    const cursor = plot.querySelector(".cursor");
    const at = mark => [Number(mark.dataset.x), Number(mark.dataset.y)];
    const curves = plot.classList.contains("curves");
    const heat = plot.classList.contains("heat");
    let shown = null;

    // All lines at one position; for a line without a value there, the nearest if it is close.
    const lines = [...new Set(marks.map(mark => mark.parentNode))];
    const together = mark => {
      if (!curves) return [mark];
      return lines.flatMap(own => {
        const far = m => Math.abs(at(m)[0] - at(mark)[0]);
        const best = marks.filter(m => m.parentNode === own).reduce((a, b) => far(b) < far(a) ? b : a);
        return far(best) < (plot.classList.contains("overlay") ? 14 : 1e-9) ? [best] : [];
      });
    };
    const told = (one, mark) => one.dataset.x === mark.dataset.x ? one.dataset.tip
      : `${one.dataset.tip} at ${one.dataset.head.split(": ").pop()}`;
    const hide = () => {
      if (!shown) return;
      for (const mark of marks) mark.classList.remove("on");
      if (cursor) cursor.style.visibility = "hidden";
      tip.hidden = true;
      shown = active = null;
    };
    const place = () => {
      const box = plot.getBoundingClientRect();
      const scale = box.width / plot.viewBox.baseVal.width;
      const x = box.left + at(shown)[0] * scale;
      const y = box.top + Math.min(...together(shown).map(one => at(one)[1])) * scale;
      const size = tip.getBoundingClientRect();
      const above = y - size.height - 14;
      tip.style.left = `${Math.max(8, Math.min(innerWidth - size.width - 8, x - size.width / 2))}px`;
      tip.style.top = `${above < 8 ? y + 44 * scale : above}px`;
    };
    const show = (mark, loud) => {
      if (mark === shown) return;
      if (active) active.hide();
      shown = mark;
      active = { hide, place };
      const group = together(mark);
      for (const one of group) one.classList.add("on");
      if (heat) {
        const text = mark.nextElementSibling;
        const written = text && text.tagName === "text" ? text : null;
        mark.parentNode.append(...(written ? [mark, written] : [mark]));
      }
      tip.replaceChildren(line(mark.dataset.head, "b"), ...group.map(one => line(told(one, mark), "div")));
      tip.hidden = false;
      place();
      if (cursor && curves) {
        cursor.setAttribute("x1", at(mark)[0]);
        cursor.setAttribute("x2", at(mark)[0]);
        cursor.style.visibility = "visible";
      }
      if (loud) status.textContent = [mark.dataset.head, ...group.map(one => told(one, mark))].join(". ");
    };

    plot.addEventListener("pointermove", event => {
      if (heat) {
        const cell = event.target.closest("[data-tip]");
        if (cell) show(cell); else hide();
        return;
      }
      const box = plot.getBoundingClientRect();
      const scale = plot.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = Infinity;
      for (const mark of marks) {
        const [a, b] = at(mark);
        const far = Math.hypot(a - x, (b - y) * (curves ? 0.2 : 1));
        if (far < least) { least = far; best = mark; }
      }
      if (best && least < (curves ? 90 : 24)) show(best); else hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", event => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      let next = marks[0];
      if (shown && heat) {
        const [r, c] = [Number(shown.dataset.r) + step[1], Number(shown.dataset.c) + step[0]];
        next = marks.find(m => Number(m.dataset.r) === r && Number(m.dataset.c) === c) || shown;
      } else if (shown && curves) {
        const columns = [...new Set(marks.map(m => Number(m.dataset.x)))].sort((a, b) => a - b);
        const place = columns.indexOf(Number(shown.dataset.x)) + step[0] - step[1];
        const x = columns[Math.max(0, Math.min(columns.length - 1, place))];
        next = marks.find(m => Number(m.dataset.x) === x);
      } else if (shown) {
        const place = marks.indexOf(shown) + step[0] + step[1];
        next = marks[Math.max(0, Math.min(marks.length - 1, place))];
      }
      show(next, true);
    });
  }
})();
