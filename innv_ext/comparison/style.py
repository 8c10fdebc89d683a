"""Look and behaviour of the report: plain CSS, and a script that sorts the table."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #55565e; --ground: #ffffff; --raised: #f4f5f8;
  --line: #d4d6de; --accent: #0b57a4; --bad: #a4260b; --good: #0a6b3d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ed; --soft: #aeb0bb; --ground: #17181c; --raised: #22242a;
  --line: #3d4049; --accent: #8cc2ff; --bad: #ff9c84; --good: #7fd6a8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem; color: var(--ink); background: var(--ground);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul { margin: .4rem 0; max-width: 62rem; }
h1, h2, h3, p, li, code, figcaption, summary { overflow-wrap: anywhere; }
td, th { overflow-wrap: break-word; }
.soft, figcaption { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
#results { font-size: .84rem; }
#results th, #results td { padding: .3rem .5rem; }
#results th[aria-sort] { padding: 0; }
thead th { background: var(--raised); vertical-align: bottom; }
td.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: 600; max-width: 24rem; }
td.best { font-weight: 700; color: var(--good); }
.failed { color: var(--bad); }
th[aria-sort] { padding: 0; }
th[aria-sort] button { all: unset; display: block; width: 100%; padding: .3rem .5rem; cursor: pointer;
  box-sizing: border-box; }
th.number button { text-align: right; white-space: nowrap; }
th[aria-sort] button:hover { color: var(--accent); }
th[aria-sort] button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th[aria-sort] button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort="ascending"] button::after { content: " \\25B2"; color: var(--accent); }
th[aria-sort="descending"] button::after { content: " \\25BC"; color: var(--accent); }
figure { margin: .6rem 0 1.2rem; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 4px; margin: .3rem 0; }
details { margin: .3rem 0; }
summary { cursor: pointer; color: var(--accent); }
code { font-size: .88em; }
@media print {
  :root { --ink: #000000; --soft: #444444; --ground: #ffffff; --raised: #eeeeee; --line: #bbbbbb; --accent: #000000;
    --bad: #7a1600; --good: #00421f; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th.number button { white-space: normal; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  th[aria-sort] button::after { content: ""; }
}
"""

# The first click shows the best on top; what has no number stays at the end.
SCRIPT = """
"use strict";
(() => {
  const table = document.getElementById("results");
  if (!table) return;
  const heads = Array.from(table.tHead.rows[0].cells);
  const body = table.tBodies[0];
  const status = document.getElementById("sorted");
  const key = (row, column) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sort = (column) => {
    const head = heads[column], now = head.getAttribute("aria-sort");
    const up = now === "none" ? head.dataset.first !== "descending" : now === "descending";
    const rows = Array.from(body.rows);
    const known = rows.filter((row) => key(row, column) !== undefined);
    const others = rows.filter((row) => key(row, column) === undefined);
    known.sort((a, b) => (up ? 1 : -1) * compare(key(a, column), key(b, column)));
    body.append(...known, ...others);
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    status.textContent = "Sorted by " + head.innerText.trim() + (up ? ", ascending." : ", descending.");
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
})();
"""
