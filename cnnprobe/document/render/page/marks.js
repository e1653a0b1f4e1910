// ---------------------------------------------------------------- marking

// What the page carries packed: text, compressed, in letters.
async function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
let report;
const data = () => (report ??= find("#data") && window.DecompressionStream ? unpacked(find("#data")).then(JSON.parse) : Promise.resolve(null));
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
    const tree = row.tree;
    if (tr.hidden && tree.words.length) {
      find("input[type=search]", tree.box).value = "";
      tree.words = [];
    }
    tree.reveal(row);
    tree.reach(row);
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

let telling = null;
async function tell(row) {
  telling = row;
  const facts = row.tr.id ? told(row.tr.id, (await data())?.trace) : [];
  if (!facts.length || telling !== row) return;
  const list = make("dl");
  for (const [said, value] of facts) list.append(make("dt", {}, inert(said)), make("dd", {}, inert(value)));
  const close = make("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => (detail.hidden = true) }, "\u00d7");
  const drawing = find("svg", row.tr)?.cloneNode(true);
  detail.replaceChildren(close, make("h2", {}, inert(row.path)), ...(drawing ? [drawing] : []), list);
  detail.hidden = false;
}

function told(key, trace) {
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
