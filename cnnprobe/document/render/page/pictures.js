// ---------------------------------------------------------------- pictures
// Zoom: the wheel with Ctrl, two fingers, the keys + - 0, or the buttons. Move: drag, scroll, or the arrow keys. A double click opens more of a box.

function canvas(figure) {
  const svg = find("svg", figure);
  const pane = find(".scroll", figure);
  if (!svg || !svg.viewBox.baseVal || !svg.viewBox.baseVal.width) return () => {};
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
  const [larger, smaller] = [() => zoom(scale * 1.3), () => zoom(scale / 1.3)];
  const button = (text, label, act) => make("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  figure.prepend(make("div", { class: "tools" },
    button("+", "Zoom in", larger), button("\u2212", "Zoom out", smaller), button("Fit", "Fit the width", fit), button("Whole", "Whole picture", whole)));
  pane.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = pane.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - at.left, event.clientY - at.top);
  }, { passive: false });
  pane.addEventListener("keydown", (event) => {
    const act = { "+": larger, "=": larger, "-": smaller, 0: fit }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    act();
    event.preventDefault();
  });
  pinch(pane, () => scale, zoom);
  const dragged = drag(pane);
  const keyOf = (event) => event.target.closest("[data-key]")?.dataset.key.split(" ")[0];
  svg.addEventListener("click", (event) => keyOf(event) && !dragged() && mark(keyOf(event), true));
  svg.addEventListener("dblclick", (event) => keyOf(event) && figure.dispatchEvent(new CustomEvent("deeper", { detail: keyOf(event) })));
  return fit;
}

function pinch(pane, scale, zoom) {
  let began = null;
  const apart = ([a, b]) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
  pane.addEventListener("touchstart", (event) => (began = event.touches.length === 2 ? { apart: apart(event.touches), scale: scale() } : null));
  pane.addEventListener("touchmove", (event) => {
    if (!began || event.touches.length !== 2) return;
    if (event.cancelable) event.preventDefault();
    const [a, b] = event.touches;
    const at = pane.getBoundingClientRect();
    zoom((began.scale * apart(event.touches)) / began.apart, (a.clientX + b.clientX) / 2 - at.left, (a.clientY + b.clientY) / 2 - at.top);
  }, { passive: false });
}

// Moves the pane with the mouse; what comes back says whether a click was the end of that.
function drag(pane) {
  let held = null;
  pane.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) held = { x: event.clientX + pane.scrollLeft, y: event.clientY + pane.scrollTop, moved: false };
  });
  addEventListener("pointermove", (event) => {
    if (!held) return;
    if (Math.abs(event.clientX + pane.scrollLeft - held.x) + Math.abs(event.clientY + pane.scrollTop - held.y) > 4) held.moved = true;
    if (held.moved) pane.scrollTo(held.x - event.clientX, held.y - event.clientY);
  });
  addEventListener("pointerup", () => setTimeout(() => (held = null)));
  return () => held?.moved;
}

// A picture that the page carries packed is unpacked when somebody wants to see it.
const drawn = new Map();
async function draw(figure) {
  const packed = find("script.packed", figure);
  if (packed) {
    packed.remove();
    find(".scroll", figure).innerHTML = await unpacked(packed);
  }
  if (!drawn.has(figure)) drawn.set(figure, canvas(figure));
}

// Of several pictures beside a table one is seen at a time.
function choose(side) {
  const figures = all("figure.picture", side).filter((figure) => window.DecompressionStream || !find("script.packed", figure));
  const select = make("select", { "aria-label": "Picture" }, ...figures.map((figure, i) => make("option", { value: i }, find("figcaption", figure)?.textContent || "picture")));
  const show = async (number) => {
    await draw(figures[number]);
    select.value = number;
    figures.forEach((figure, i) => (figure.hidden = i !== number));
    if (figures.length > 1) find(".tools", figures[number])?.prepend(select);
    drawn.get(figures[number])();
    const marked = find("tr.marked");
    if (marked) markBox(rowOf(marked), true);
    for (const tree of trees) for (const act of tree.after) act(tree);
  };
  select.addEventListener("change", () => show(Number(select.value)).then(() => select.focus()));
  const boxes = (figure) => Number(figure.dataset.boxes);
  figures.forEach((figure) => figure.addEventListener("deeper", async (event) => {
    const [next] = figures.filter((one) => boxes(one) > boxes(figure)).sort((a, b) => boxes(a) - boxes(b));
    const row = rowOf(document.getElementById(event.detail));
    if (!next || !row) return;
    await show(figures.indexOf(next));
    const inside = row.tree.rows.slice(row.position).find((one) => find(`[data-key~="${CSS.escape(one.tr.id)}"]`, next));
    markBox(inside || row, true);
  }));
  show(0);
  for (const tree of trees) if (side.parentElement.contains(tree.box)) tree.after.push((changed) => highlight(side, changed));
}

// While somebody searches, the boxes of what matches stand out.
function highlight(side, tree) {
  const searching = tree.words.length > 0;
  for (const svg of all("svg", side)) svg.classList.toggle("searched", searching);
  if (!searching) return;
  for (const box of all("svg [data-key]", side)) {
    box.classList.toggle("found", box.dataset.key.split(" ").some((key) => rowOf(document.getElementById(key))?.seen));
  }
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
  const wanted = () => trees.push(new Tree(box));
  const folded = box.closest("details:not([open])");
  if (!box.classList.contains("tree") && find("tbody", box).rows.length <= 15) continue;
  if (folded) folded.addEventListener("toggle", wanted, { once: true });
  else wanted();
}
root.classList.remove("opening");
for (const side of all(".pictures")) choose(side);
for (const figure of all("figure.picture")) if (!figure.closest(".pictures")) draw(figure).then(() => drawn.get(figure)());
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
