// ---------------------------------------------------------------- trees

const trees = [];
const rowsOf = new Map(); // of each tr, note or not, its row
const rowOf = (tr) => rowsOf.get(tr);
const AT_ONCE = 120; // rows that are laid out before somebody scrolls on: a browser takes long over a table of thousands
const POWERS = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, PiB: 2 ** 50, ms: 1e-3, us: 1e-6 };

// What a cell says as a number: "1.15 M", "8.00 KiB", "-1.2e-05", "1,147,466", "<0.1%"; what says no number comes last.
function worth(cell) {
  const found = /^([<>]?)(-?(?:Inf|[\d.,]+(?:e[+-]\d+)?))\s?([a-zA-Z]*)%?$/.exec(cell.dataset.v || cell.textContent.trim());
  if (!found) return -Infinity;
  const size = found[2].endsWith("Inf") ? Infinity * (found[2][0] === "-" ? -1 : 1) : Number(found[2].replaceAll(",", ""));
  return size * (POWERS[found[3]] || 1) * ({ "<": 0.9, ">": 1.0001 }[found[1]] || 1);
}

class Tree {
  constructor(box) {
    this.box = box;
    this.table = find("table", box);
    this.body = this.table.tBodies[0];
    this.pane = find(".scroll", box);
    this.rows = [];
    this.tops = [];
    this.words = [];
    this.after = []; // what is done when other rows are seen
    this.limit = AT_ONCE;
    this.moved = false; // whether rows have been sorted, and may stand anywhere
    this.isTree = box.classList.contains("tree");
    this.read();
    this.order = this.rows;
    this.fold(Number(box.dataset.open));
    this.dress();
    this.arrange();
    window.requestIdleCallback?.(() => this.rows.forEach((row) => this.text(row))); // so that the first search is as quick as the next
  }

  read() {
    const above = [];
    for (const tr of this.body.rows) {
      if (tr.classList.contains("note")) {
        const noted = this.rows[this.rows.length - 1];
        noted.notes.push(tr);
        rowsOf.set(tr, noted);
        continue;
      }
      const depth = Number(tr.style.getPropertyValue("--d")) || 0;
      above.length = Math.min(above.length, depth);
      const parent = above[above.length - 1] || null;
      const first = tr.cells[0].textContent.trim();
      const path = parent && parent.parent ? parent.path + "." + first : first;
      const row = { tree: this, tr, depth, parent, path, notes: [], below: [], open: false, seen: true, matches: true, position: this.rows.length, place: 0, text: "" };
      row.place = (parent ? parent.below : this.tops).push(row);
      above[depth] = row;
      this.rows.push(row);
      rowsOf.set(tr, row);
    }
  }

  text(row) {
    return (row.text ||= (row.path + " " + [...row.tr.cells].filter((_, i) => !this.numeric[i]).map((cell) => cell.textContent).join(" ")).toLowerCase());
  }

  fold(depth) {
    for (const row of this.rows) row.open = row.below.length > 0 && row.depth < depth;
    for (const row of this.rows) if (row.tr.matches(".error, .warning")) this.reveal(row);
  }

  reveal(row) {
    for (let up = row.parent; up; up = up.parent) up.open = true;
  }

  // Which rows are to be seen: what matches the search with all that stands above it, else what no closed row hides.
  look() {
    const searching = this.words.length > 0;
    for (const row of this.rows) {
      row.matches = searching && this.words.every((word) => this.text(row).includes(word));
      row.seen = searching ? row.matches : !row.parent || (row.parent.open && row.parent.seen);
      if (row.matches) for (let up = row.parent; up && !up.seen; up = up.parent) up.seen = true;
    }
  }

  arrange() {
    this.look();
    const searching = this.words.length > 0;
    const laid = [];
    let shown = 0;
    for (const row of this.order) {
      const hidden = !row.seen || shown >= this.limit;
      if (row.seen) shown += 1;
      if (row.tr.hidden !== hidden) for (const tr of [row.tr, ...row.notes]) tr.hidden = hidden;
      if (hidden) continue;
      laid.push(row.tr, ...row.notes);
      this.show(row, searching);
    }
    if (this.moved) this.place(laid);
    const matching = this.rows.filter((row) => row.matches).length;
    this.count.textContent = searching ? `${matching} of ${this.rows.length} rows match` : `${shown} of ${this.rows.length} rows shown`;
    this.more.hidden = shown <= this.limit;
    this.more.textContent = `${(shown - this.limit).toLocaleString("en-US")} more rows`;
    if (!this.focused || this.focused.tr.hidden) this.focus(this.order.find((row) => row.seen), false);
    for (const act of this.after) act(this);
  }

  // In this order at the top; where the others are nobody sees.
  place(laid) {
    let at = this.body.firstElementChild;
    if (laid.every((tr) => [at, (at = at?.nextElementSibling)][0] === tr)) return;
    const held = this.body.contains(document.activeElement);
    this.body.prepend(...laid);
    if (held) this.focused?.tr.focus({ preventScroll: true }); // what is moved loses it
  }

  show(row, searching) {
    if (!row.dressed) this.dressRow(row);
    row.tr.classList.toggle("context", searching && !row.matches);
    if (!row.below.length) return;
    const open = String(searching ? row.below.some((below) => below.seen) : row.open);
    if (row.tr.getAttribute("aria-expanded") === open) return;
    row.tr.setAttribute("aria-expanded", open);
    row.twist.textContent = open === "true" ? "\u25be" : "\u25b8";
  }

  dressRow(row) {
    row.dressed = true;
    if (!this.isTree) return;
    const siblings = row.parent ? row.parent.below : this.tops;
    const said = { role: "row", "aria-level": row.depth + 1, "aria-posinset": row.place, "aria-setsize": siblings.length };
    for (const [attribute, value] of Object.entries(said)) row.tr.setAttribute(attribute, value);
    row.twist = make("span", { class: "twist", "aria-hidden": "true" });
    row.tr.cells[0].prepend(row.twist);
    if (row.parent) row.tr.cells[0].title = row.path;
  }

  dress() {
    this.table.setAttribute("role", this.isTree ? "treegrid" : "grid");
    this.table.setAttribute("aria-label", find("caption", this.table)?.textContent || "modules");
    const heads = [...this.table.tHead.rows[0].cells];
    this.numeric = heads.map((th) => th.classList.contains("n"));
    for (const th of heads) {
      const words = th.textContent.trim();
      if (words) th.replaceChildren(make("button", { type: "button", title: "Sort by " + words, onclick: () => this.sort(th) }, words));
    }
    this.tools();
    this.more = make("button", { type: "button", class: "rest", hidden: "", onclick: () => this.extend(this.limit + AT_ONCE) });
    this.pane.append(this.more);
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.extend(this.limit + AT_ONCE),
      { root: this.isTree ? this.pane : null, rootMargin: "200px" }).observe(this.more);
    addEventListener("beforeprint", () => this.extend(Infinity));
    this.body.addEventListener("click", (event) => this.click(event));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  tools() {
    const search = make("input", { type: "search", placeholder: "Search name, kind, shape", "aria-label": "Search the rows" });
    search.addEventListener("input", () => this.search(search.value));
    this.count = make("output", { "aria-live": "polite" });
    const bar = make("div", { class: "tools", role: "search" }, search);
    if (this.isTree) {
      const button = (text, depth) => make("button", { type: "button", onclick: () => (this.fold(depth), this.afresh()) }, text);
      bar.append(button("Expand all", Infinity), button("Collapse", 1));
    }
    if (find("th.r", this.table)) {
      const more = make("input", { type: "checkbox" });
      more.addEventListener("change", () => this.box.classList.toggle("all", more.checked));
      bar.append(make("label", {}, more, " all columns"));
    }
    bar.append(this.count);
    this.box.prepend(bar);
  }

  afresh() {
    this.limit = AT_ONCE;
    this.pane.scrollTop = 0;
    this.arrange();
  }

  extend(limit) {
    if (this.more.hidden) return;
    this.limit = limit;
    this.arrange();
  }

  search(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.afresh();
  }

  sort(th) {
    const numeric = th.classList.contains("n");
    const turns = numeric || th.classList.contains("v") ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
    const turn = turns[(turns.indexOf(th.getAttribute("aria-sort") || "") + 1) % 3];
    for (const other of this.table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    if (turn) th.setAttribute("aria-sort", turn);
    const column = th.cellIndex;
    const said = new Map(turn ? this.rows.map((row) => [row, turns[0] === "descending" ? worth(row.tr.cells[column]) : row.tr.cells[column].textContent]) : []);
    const compare = (a, b) => {
      if (!turn) return a.position - b.position;
      const [x, y] = [said.get(a), said.get(b)];
      const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x < y ? -1 : x > y ? 1 : 0;
      return (turn === "ascending" ? order : -order) || a.position - b.position;
    };
    this.order = [];
    const stack = [...this.tops].sort(compare).reverse();
    while (stack.length) {
      const row = stack.pop();
      this.order.push(row);
      stack.push(...[...row.below].sort(compare).reverse());
    }
    this.moved = true;
    this.afresh();
  }

  toggle(row, open = !row.open) {
    if (!row.below.length || this.words.length) return;
    row.open = open;
    this.arrange();
  }

  // Where a row stands among those that are seen; as many are laid out as it takes.
  reach(row) {
    this.arrange();
    const at = this.order.filter((one) => one.seen).indexOf(row);
    if (at >= this.limit) this.extend(at + AT_ONCE);
  }

  click(event) {
    const row = rowOf(event.target.closest("tr"));
    if (!row) return;
    this.focus(row, true);
    if (event.target === row.twist || event.detail === 2) this.toggle(row);
    else if (row.tr.id && !String(getSelection())) mark(row.tr.id);
  }

  key(event) {
    const row = this.focused;
    const seen = this.order.filter((one) => one.seen);
    const [at, last] = [seen.indexOf(row), seen.length - 1];
    const step = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last, PageDown: Math.min(at + 20, last), PageUp: Math.max(at - 20, 0) };
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in step) {
      this.reach(seen[step[event.key]]);
      this.focus(seen[step[event.key]], true);
    } else if (event.key === "ArrowRight" && row.below.length && !row.open) this.toggle(row, true);
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
