"use strict";
// The page without this script is whole and can be read. Here its tables become searchable, sortable and foldable, and a row and its box mark
// each other. Text of a model is only ever set as textContent, never as markup; a drawing was made and escaped when the page was written.

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
