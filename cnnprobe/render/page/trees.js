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
