"use strict";
// The page without this script is whole and can be read. Here its tables become searchable, sortable and foldable, and a row and its box mark
// each other. Text of a model is only ever set as textContent, never as markup.
(() => {
  const root = document.documentElement;
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, given = {}, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, said] of Object.entries(given)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), said);
      else element.setAttribute(name, said);
    }
    element.append(...inside);
    return element;
  };
  // Bidi marks, control characters and the like are shown by their code, as everywhere else on the page.
  const inert = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

  // ---------------------------------------------------------------- light and dark

  const remembered = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("cnnprobe-theme", value);
      return localStorage.getItem("cnnprobe-theme") || "";
    } catch {
      return value || "";
    }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  if (remembered()) root.dataset.theme = remembered();
  const theme = make("button", { type: "button", id: "theme" });
  const name = () => (theme.textContent = isDark() ? "Light" : "Dark");
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
  find("main").prepend(theme);

  // ---------------------------------------------------------------- trees

  const trees = [];
  const rowOf = (tr) => trees.flatMap((tree) => tree.rows).find((row) => row.tr === tr);

  class Tree {
    constructor(box) {
      this.box = box;
      this.table = find("table", box);
      this.body = this.table.tBodies[0];
      this.rows = [];
      this.tops = [];
      this.words = [];
      this.isTree = box.classList.contains("tree");
      this.read();
      this.fold(Number(box.dataset.open));
      this.dress();
      this.arrange();
    }

    read() {
      const above = [];
      for (const tr of this.body.rows) {
        if (tr.classList.contains("note")) {
          this.rows[this.rows.length - 1].notes.push(tr);
          continue;
        }
        const depth = Number(tr.dataset.d) || 0;
        above.length = Math.min(above.length, depth);
        const parent = above[above.length - 1] || null;
        const first = tr.cells[0].textContent;
        const path = parent && parent.parent ? parent.path + "." + first : first;
        const row = { tr, depth, parent, path, notes: [], below: [], open: false, position: this.rows.length, text: "" };
        (parent ? parent.below : this.tops).push(row);
        above[depth] = row;
        this.rows.push(row);
      }
    }

    text(row) {
      return (row.text ||= (row.path + " " + [...row.tr.cells].filter((cell) => !cell.classList.contains("n")).map((cell) => cell.textContent).join(" ")).toLowerCase());
    }

    fold(depth) {
      for (const row of this.rows) row.open = row.below.length > 0 && row.depth < depth;
      for (const row of this.rows) if (row.tr.matches(".error, .warning")) this.reveal(row);
    }

    reveal(row) {
      for (let up = row.parent; up; up = up.parent) up.open = true;
    }

    // Which rows are to be seen: what matches the search with all that stands above it, else what no closed row hides.
    seen() {
      const seen = new Set();
      if (this.words.length) {
        for (const row of this.rows) {
          const matches = this.words.every((word) => this.text(row).includes(word));
          row.tr.classList.toggle("context", !matches);
          if (matches) for (let up = row; up && !seen.has(up); up = up.parent) seen.add(up);
        }
        return seen;
      }
      for (const row of this.rows) {
        row.tr.classList.remove("context");
        if (!row.parent || (row.parent.open && seen.has(row.parent))) seen.add(row);
      }
      return seen;
    }

    arrange() {
      const seen = this.seen();
      for (const row of this.rows) {
        const hidden = !seen.has(row);
        for (const tr of [row.tr, ...row.notes]) if (tr.hidden !== hidden) tr.hidden = hidden;
        if (row.below.length) {
          const open = String(this.words.length ? row.below.some((below) => seen.has(below)) : row.open);
          if (row.tr.getAttribute("aria-expanded") !== open) {
            row.tr.setAttribute("aria-expanded", open);
            row.twist.textContent = open === "true" ? "\u25be" : "\u25b8";
          }
        }
      }
      this.count.textContent = this.words.length
        ? `${this.rows.filter((row) => seen.has(row) && !row.tr.classList.contains("context")).length} of ${this.rows.length} rows match`
        : `${seen.size} of ${this.rows.length} rows shown`;
      if (!this.focused || this.focused.tr.hidden) this.focus(this.rows.find((row) => seen.has(row)), false);
    }

    dress() {
      this.table.setAttribute("role", this.isTree ? "treegrid" : "grid");
      this.table.setAttribute("aria-label", find("caption", this.table)?.textContent || "modules");
      const places = new Map([this.tops, ...this.rows.map((row) => row.below)].flatMap((below) => below.map((row, i) => [row, [i + 1, below.length]])));
      for (const row of this.rows) {
        row.tr.tabIndex = -1;
        if (!this.isTree) continue;
        row.tr.setAttribute("role", "row");
        row.tr.setAttribute("aria-level", row.depth + 1);
        row.tr.setAttribute("aria-posinset", places.get(row)[0]);
        row.tr.setAttribute("aria-setsize", places.get(row)[1]);
        row.twist = make("span", { class: "twist", "aria-hidden": "true" }, "");
        row.tr.cells[0].prepend(row.twist);
        if (row.parent) row.tr.cells[0].title = row.path;
      }
      for (const th of this.table.tHead.rows[0].cells) {
        const words = th.textContent;
        if (words) th.replaceChildren(make("button", { type: "button", title: "Sort by " + words, onclick: () => this.sort(th) }, words));
      }
      this.tools();
      this.body.addEventListener("click", (event) => this.click(event));
      this.body.addEventListener("keydown", (event) => this.key(event));
    }

    tools() {
      const search = make("input", { type: "search", placeholder: "Search name, kind, shape", "aria-label": "Search the rows" });
      let waiting = 0;
      search.addEventListener("input", () => {
        clearTimeout(waiting);
        if (this.rows.length > 500) waiting = setTimeout(() => this.search(search.value), 120);
        else this.search(search.value);
      });
      this.count = make("output", { "aria-live": "polite" });
      const bar = make("div", { class: "tools", role: "search" }, search);
      if (this.isTree) {
        const button = (text, act) => make("button", { type: "button", onclick: () => (act(), this.arrange()) }, text);
        bar.append(button("Expand all", () => this.fold(Infinity)), button("Collapse", () => this.fold(1)));
      }
      if (find("th.rare", this.table)) {
        const more = make("input", { type: "checkbox" });
        more.addEventListener("change", () => this.box.classList.toggle("all", more.checked));
        bar.append(make("label", {}, more, " all columns"));
      }
      bar.append(this.count);
      this.box.prepend(bar);
    }

    search(text) {
      this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
      this.arrange();
    }

    sort(th) {
      const numeric = th.classList.contains("n");
      const turns = numeric ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
      const turn = turns[(turns.indexOf(th.getAttribute("aria-sort") || "") + 1) % 3];
      for (const other of this.table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (turn) th.setAttribute("aria-sort", turn);
      const column = th.cellIndex;
      const worth = (row) => {
        const cell = row.tr.cells[column];
        const said = cell.dataset.v ?? cell.textContent.replaceAll(",", "");
        return numeric || cell.dataset.v !== undefined ? (said === "" || Number.isNaN(Number(said)) ? -Infinity : Number(said)) : cell.textContent;
      };
      const compare = (a, b) => {
        if (!turn) return a.position - b.position;
        const [x, y] = [worth(a), worth(b)];
        const order = typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y), undefined, { numeric: true }) : x < y ? -1 : x > y ? 1 : 0;
        return (turn === "ascending" ? order : -order) || a.position - b.position;
      };
      const ordered = document.createDocumentFragment();
      const stack = [...this.tops].sort(compare).reverse();
      while (stack.length) {
        const row = stack.pop();
        ordered.append(row.tr, ...row.notes);
        stack.push(...[...row.below].sort(compare).reverse());
      }
      this.body.append(ordered);
    }

    toggle(row, open = !row.open) {
      if (!row.below.length || this.words.length) return;
      row.open = open;
      this.arrange();
    }

    click(event) {
      const tr = event.target.closest("tr");
      const row = this.rows.find((one) => one.tr === tr || one.notes.includes(tr));
      if (!row) return;
      this.focus(row, true);
      if (event.target === row.twist || event.detail === 2) this.toggle(row);
      else if (row.tr.id && !String(getSelection())) mark(row.tr.id);
    }

    key(event) {
      const row = this.focused;
      const shown = [...this.body.rows].filter((tr) => !tr.hidden && !tr.classList.contains("note"));
      const at = shown.indexOf(row?.tr);
      const step = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: Math.min(at + 20, shown.length - 1), PageUp: Math.max(at - 20, 0) };
      if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key in step) this.focus(this.rows.find((one) => one.tr === shown[step[event.key]]), true);
      else if (event.key === "ArrowRight" && row.below.length && !row.open) this.toggle(row, true);
      else if (event.key === "ArrowRight" && row.below.length) this.focus(row.below[0], true);
      else if (event.key === "ArrowLeft" && row.below.length && row.open) this.toggle(row, false);
      else if (event.key === "ArrowLeft") this.focus(row.parent, true);
      else if ((event.key === "Enter" || event.key === " ") && row.tr.id) mark(row.tr.id);
      else return;
      event.preventDefault();
    }

    // One row at a time can be reached by Tab; the arrow keys move it.
    focus(row, really) {
      if (!row) return;
      if (this.focused) this.focused.tr.tabIndex = -1;
      this.focused = row;
      row.tr.tabIndex = 0;
      if (really) row.tr.focus({ preventScroll: false });
    }
  }

  // ---------------------------------------------------------------- marking

  let report;
  const data = () => (report ??= find("#data") ? JSON.parse(find("#data").textContent) : null);
  const detail = make("section", { id: "detail", role: "region", "aria-label": "The marked row", "aria-live": "polite", hidden: "" });
  document.body.append(detail);

  function mark(key, reveal = false) {
    const tr = key && document.getElementById(key);
    const row = tr && rowOf(tr);
    if (!row) return;
    for (const marked of all(".marked")) marked.classList.remove("marked");
    for (const selected of all("tr[aria-selected]")) selected.removeAttribute("aria-selected");
    tr.classList.add("marked");
    tr.setAttribute("aria-selected", "true");
    if (reveal) {
      const tree = trees.find((one) => one.rows.includes(row));
      if (tr.hidden && tree.words.length) {
        find("input[type=search]", tree.box).value = "";
        tree.words = [];
      }
      tree.reveal(row);
      tree.arrange();
      tree.focus(row, false);
      tr.scrollIntoView({ block: "center", inline: "nearest" });
    }
    markBox(row, !reveal);
    tell(row);
    history.replaceState(null, "", "#" + key);
  }

  // The box of the row, or of the nearest row above it that has one.
  function markBox(row, scroll) {
    for (let up = row; up; up = up.parent) {
      const boxes = up.tr.id ? all(`svg [data-key~="${CSS.escape(up.tr.id)}"]`) : [];
      for (const box of boxes) box.classList.add("marked");
      if (boxes.length) {
        const shown = boxes.find((box) => box.getClientRects().length);
        if (scroll && shown) center(shown);
        if (shown) return;
      }
    }
  }

  // Scrolls the pane of a box, and never the page.
  function center(box) {
    const pane = box.closest(".scroll");
    const [at, frame] = [box.getBoundingClientRect(), pane.getBoundingClientRect()];
    if (at.top >= frame.top && at.bottom <= frame.bottom && at.left >= frame.left && at.right <= frame.right) return;
    pane.scrollBy(at.left + at.width / 2 - frame.left - frame.width / 2, at.top + at.height / 2 - frame.top - frame.height / 2);
  }

  const shape = (tensor) => `(${tensor.shape.join(", ")}${tensor.shape.length === 1 ? "," : ""}) ${tensor.dtype}`;
  const number = (x) => (typeof x === "number" && !Number.isInteger(x) ? Number(x.toPrecision(5)) : typeof x === "number" ? x.toLocaleString("en-US") : x);

  function tell(row) {
    const facts = row.tr.id ? told(row.tr.id) : [];
    if (!facts.length) return;
    const list = make("dl");
    for (const [said, value] of facts) list.append(make("dt", {}, inert(said)), make("dd", {}, inert(value)));
    const close = make("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => (detail.hidden = true) }, "\u00d7");
    const drawing = find("svg", row.tr)?.cloneNode(true);
    detail.replaceChildren(close, make("h2", {}, inert(row.path)), ...(drawing ? [drawing] : []), list);
    detail.hidden = false;
  }

  function told(key) {
    const trace = data()?.trace;
    if (!trace) return [];
    const index = Number(key.slice(1));
    const call = key[0] === "c" ? trace.calls[index] : null;
    const module = key[0] === "m" ? trace.modules[index] : call && call.fqn !== null && trace.modules.find((one) => one.fqn === call.fqn || one.aliases.includes(call.fqn));
    const parameters = key[0] === "p" ? [trace.parameters[index]] : module ? trace.parameters.filter((one) => module.parameters.includes(one.fqn)) : [];
    const facts = [["kind", (call || module || { kind: "parameter" }).kind]];
    if (module && Object.keys(module.config).length) {
      facts.push(["settings", Object.entries(module.config).map(([setting, value]) => `${setting}=${JSON.stringify(value)}`).join(", ")]);
    }
    if (module && module.aliases.length) facts.push(["also", module.aliases.join(", ")]);
    for (const one of parameters) facts.push([one.fqn.split(".").pop(), `${shape(one)}${one.kind === "buffer" ? ", buffer" : one.trainable ? "" : ", frozen"}`]);
    if (call) facts.push(...toldOfCall(call));
    return facts;
  }

  function toldOfCall(call) {
    const facts = call.inputs.map((one) => [`input ${one.path}`, shape(one)]);
    for (const one of call.outputs) {
      facts.push([`output ${one.path}`, shape(one)]);
      for (const [said, value] of Object.entries(one.stats || {})) if (value || !["nan", "inf"].includes(said)) facts.push([said, number(value)]);
    }
    if (Object.keys(call.arguments).length) facts.push(["arguments", Object.entries(call.arguments).map(([path, value]) => `${path}=${JSON.stringify(value)}`).join(", ")]);
    if (call.completed && call.seconds) facts.push(["time", `${number(call.seconds * 1000)} ms, with the probe`]);
    if (call.source) facts.push(["called at", call.source]);
    return facts;
  }

  // ---------------------------------------------------------------- pictures: zoom by the wheel with Ctrl, by buttons; drag to move

  function picture(figure) {
    const svg = find("svg", figure);
    const pane = find(".scroll", figure);
    if (!svg || !svg.viewBox.baseVal || !svg.viewBox.baseVal.width) return null;
    const wide = svg.viewBox.baseVal.width;
    const high = svg.viewBox.baseVal.height;
    let scale = 1;
    const zoom = (wanted, x = pane.clientWidth / 2, y = pane.clientHeight / 2) => {
      const next = Math.min(Math.max(wanted, 0.02), 8);
      const [left, top] = [(pane.scrollLeft + x) / scale, (pane.scrollTop + y) / scale];
      scale = next;
      svg.setAttribute("width", wide * scale);
      svg.setAttribute("height", high * scale);
      pane.scrollTo(left * scale - x, top * scale - y);
    };
    const fit = () => (zoom(Math.min((pane.clientWidth - 2) / wide, 1)), pane.scrollTo(0, 0));
    const whole = () => zoom(Math.min((pane.clientWidth - 2) / wide, (pane.clientHeight - 2) / high, 1.2));
    const button = (text, label, act) => make("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    figure.prepend(make("div", { class: "tools" },
      button("+", "Zoom in", () => zoom(scale * 1.3)), button("\u2212", "Zoom out", () => zoom(scale / 1.3)),
      button("Fit", "Fit the width", fit), button("Whole", "Whole picture", whole)));
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const at = pane.getBoundingClientRect();
      zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - at.left, event.clientY - at.top);
    }, { passive: false });
    let drag = null;
    pane.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) drag = { x: event.clientX + pane.scrollLeft, y: event.clientY + pane.scrollTop, moved: false };
    });
    addEventListener("pointermove", (event) => {
      if (!drag) return;
      if (Math.abs(event.clientX + pane.scrollLeft - drag.x) + Math.abs(event.clientY + pane.scrollTop - drag.y) > 4) drag.moved = true;
      if (drag.moved) pane.scrollTo(drag.x - event.clientX, drag.y - event.clientY);
    });
    addEventListener("pointerup", () => setTimeout(() => (drag = null)));
    svg.addEventListener("click", (event) => {
      const key = event.target.closest("[data-key]")?.dataset.key.split(" ")[0];
      if (key && !drag?.moved) mark(key, true);
    });
    fit();
    return fit;
  }

  // Of several pictures beside a table one is seen at a time.
  function choose(side) {
    const figures = all("figure.picture", side);
    const fits = figures.map(picture);
    if (figures.length < 2) return;
    const select = make("select", { "aria-label": "Picture" }, ...figures.map((figure, i) => make("option", { value: i }, find("figcaption", figure).textContent)));
    const show = () => figures.forEach((figure, i) => {
      figure.hidden = i !== Number(select.value);
      find(".tools", figure)?.prepend(...(figure.hidden ? [] : [select]));
      if (!figure.hidden) fits[i]?.();
    });
    select.addEventListener("change", () => (show(), select.focus()));
    show();
  }

  // ---------------------------------------------------------------- code to copy

  for (const block of all(".code")) {
    const copy = make("button", { type: "button", class: "copy" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(find("code", block).textContent.trimEnd() + "\n");
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(find("code", block));
        copy.textContent = "Selected";
      }
    });
    block.append(copy);
  }

  for (const box of all(".table")) {
    if (box.classList.contains("tree") || find("tbody", box).rows.length > 15) trees.push(new Tree(box));
  }
  for (const side of all(".pictures")) choose(side);
  for (const figure of all("figure.picture")) if (!figure.closest(".pictures")) picture(figure);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    mark(link.getAttribute("href").slice(1), true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") detail.hidden = true;
    if (event.key === "/" && !event.target.closest("input, textarea")) {
      find("input[type=search]")?.focus();
      event.preventDefault();
    }
  });
  if (location.hash) mark(decodeURIComponent(location.hash.slice(1)), true);
})();
