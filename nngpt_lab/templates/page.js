"use strict";
// The page reads without this script; it adds the theme switch, sorting and filtering.

const root = document.documentElement;
const remembered = {
  // Some browsers refuse storage to pages opened from disk: then the choice lasts as long as the page.
  get() { try { return localStorage.getItem("nngpt-lab-theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("nngpt-lab-theme", theme); } catch { /* not remembered */ } },
};
if (remembered.get()) root.dataset.theme = remembered.get(); // before the first paint

document.addEventListener("DOMContentLoaded", () => {
  themeSwitch(document.getElementById("theme"));
  document.querySelectorAll("table.claims, table.sortable").forEach(sortable);
  const table = document.querySelector("table.claims");
  if (table) filterable(table);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
});

function themeSwitch(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const other = () => (current() === "dark" ? "light" : "dark");
  const label = () => { button.textContent = other() === "dark" ? "Dark theme" : "Light theme"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = other(); remembered.set(root.dataset.theme); label(); });
  system.addEventListener("change", label);
  label();
}

// Clicking a header sorts up, then down, then back to the page's own order. What has no value stays last.
function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const order = next[header.getAttribute("aria-sort")];
    headers.forEach((one) => one.setAttribute("aria-sort", one === header ? order : "none"));
    const rows = order === "none" ? original : [...original].sort((a, b) => compare(key(a, column), key(b, column), order));
    body.append(...rows);
  }));
}

// A cell's own key, or else its text, whose first number counts where it begins with one: "1,234 [1, 2]" is 1234.
function key(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.key ?? cell.textContent.trim();
  const number = cell.dataset.key === undefined ? (/^[-−]?[\d,]*\.?\d+(e[-+]?\d+)?(?=$|[\s\u202f])/.exec(text) || [text])[0].replaceAll(",", "") : text;
  return number === "" || Number.isNaN(Number(number)) ? text : Number(number);
}

function compare(a, b, order) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const both = typeof a === "number" && typeof b === "number";
  const sign = both ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return order === "descending" ? -sign : sign;
}

function filterable(table) {
  const form = document.querySelector(".filters");
  const shown = document.getElementById("shown");
  const rows = [...table.tBodies[0].rows];
  const apply = () => {
    const wanted = new FormData(form);
    for (const row of rows) row.hidden = [...wanted].some(([name, value]) => value && row.dataset[name] !== value);
    const visible = rows.filter((row) => !row.hidden).length;
    shown.textContent = visible === rows.length ? `All ${visible} claims shown.` : `${visible} of ${rows.length} claims shown.`;
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply(); // a reloaded page may come back with a filter still chosen
}
