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
