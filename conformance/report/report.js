"use strict";
// Opens cells, filters the map, keeps both in location.hash, copies texts. grid.py describes the data.
const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const form = find("filters");
const names = data.verdicts.map(([name]) => name);
const width = data.targets.length;
const cells = [...document.querySelectorAll("#map tbody td")].slice(0, data.cells.length).map((td, index) => {
  const [family, target] = [data.families[Math.floor(index / width)], data.targets[index % width]];
  const button = td.firstElementChild;
  const face = button && [button.className, button.innerHTML, button.ariaLabel];
  const rows = data.cells[index].map((row) => data.rows[row]);
  return { index, td, button, face, family, target, rows, change: data.changes[index], error: data.errors[index % width] };
});
const live = cells.filter((cell) => cell.button);
let opened = null;

const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const mark = (verdict) => make("span", { className: `mark ${names[verdict]}`, ariaHidden: "true" }, data.verdicts[verdict][1]);
const invariant = (row) => data.invariants[row[0]];
const outcomes = (row) => row[2].map((n, i) => n && `${n} ${data.outcomes[i]}`).filter(Boolean).join(", ");
const off = (cell) => cell.td.hasAttribute("data-off");
const checked = () => [...form.verdict].filter((box) => box.checked).map((box) => box.value);

// A cell's face: its worst verdict, or that of one invariant. Returns the verdict shown.
function paint(cell, chosen) {
  const rows = cell.rows.filter((row) => !chosen || invariant(row) === chosen);
  const verdict = cell.rows.length ? Math.min(...rows.map((row) => row[1])) : names.indexOf("error");
  let face = cell.face;
  if (chosen && rows.length) {
    const [name, sign, word] = data.verdicts[verdict];
    const count = name === "not-applicable" ? "" : rows[0][2][data.outcomes.indexOf(word)] || "";
    const label = `${cell.family}, ${cell.target}, ${chosen}: ${word}; cases: ${outcomes(rows[0]) || "none"}`;
    face = [`${name}${cell.change ? " changed" : ""}`, `${sign}${count}`, label];
  }
  [cell.button.className, cell.button.innerHTML, cell.button.ariaLabel] = face;
  cell.button.title = face[2];
  return names[verdict];
}

function filter() {
  const [verdicts, rows] = [new Set(checked()), new Set()];
  for (const cell of live) {
    const verdict = paint(cell, form.invariant.value);
    const on = verdicts.has(verdict) && cell.family.includes(form.family.value.trim().toLowerCase()) && (cell.change || !form.changed.checked);
    cell.td.toggleAttribute("data-off", !on);
    if (on) rows.add(cell.td.parentElement);
  }
  for (const { td } of cells) td.parentElement.hidden = !rows.has(td.parentElement);
  if (opened && off(opened)) fold();
  if (!live.some((cell) => cell.button.tabIndex === 0 && !off(cell))) enter(live.find((cell) => !off(cell)));
  find("shown").textContent = `${live.filter((cell) => !off(cell)).length} of ${live.length} cells`;
}

function remember() {
  const state = new URLSearchParams();
  if (form.family.value) state.set("family", form.family.value);
  if (form.invariant.value) state.set("invariant", form.invariant.value);
  if (checked().length < names.length) state.set("verdicts", checked());
  if (form.changed.checked) state.set("changed", "1");
  if (opened) state.set("cell", `${opened.family} ${opened.target}`);
  history.replaceState(null, "", `#${state}`);
}

function restore() {
  const place = find(location.hash.slice(1));
  if (place) place.open = true; // an anchor, not a view: a ledger entry opens
  if (place || !live.length) return;
  const state = new URLSearchParams(location.hash.slice(1));
  const verdicts = state.has("verdicts") ? state.get("verdicts").split(",") : names;
  form.family.value = state.get("family") || "";
  form.invariant.value = data.invariants.includes(state.get("invariant")) ? state.get("invariant") : "";
  for (const box of form.verdict) box.checked = verdicts.includes(box.value);
  form.changed.checked = state.has("changed");
  if (opened) fold();
  filter();
  const cell = live.find((cell) => `${cell.family} ${cell.target}` === state.get("cell") && !off(cell));
  if (cell) unfold(cell);
}

const worst = ([, , , fraction]) => {
  if (fraction === null) return [];
  const meter = make("span", { className: "meter" });
  meter.style.setProperty("--part", Math.min(fraction, 1));
  return [fraction < 0.001 ? "< 0.001" : `${fraction}`, meter];
};

function why(row) {
  const known = Object.entries(row[5]).map(([entry, count]) => {
    const [id, title] = data.entries[entry];
    return make("div", {}, make("a", { href: `#known-${id}`, title }, id), ` × ${count}`);
  });
  const failures = row[6].map((failure) => {
    const [fingerprint, message, fraction, cause] = data.failures[failure];
    const size = fraction && ` (${fraction} times its bound)`;
    return make("div", {}, make("a", { href: `#failure-${cause}` }, fingerprint), `: ${message}${size}`);
  });
  return [...known, ...failures, data.reasons[row[4]]];
}

function detail(cell) {
  const shut = make("button", { type: "button", className: "close", onclick: leave }, "Close (Esc)");
  const panel = make("div", { className: "detail" }, make("header", {}, make("h3", {}, `${cell.family} on ${cell.target}`), shut));
  if (cell.error) panel.append(make("p", {}, mark(names.indexOf("error")), ` ${cell.error}`));
  if (cell.change) {
    const [before, differ, compared, largest, tensors] = cell.change;
    const size = largest ? `by up to ${largest} times the bound (root mean square)` : "in kind (a tensor missing, of another shape, or a load that raises)";
    const text = ` Values changed since ${before}: ${differ} of ${compared} cases differ ${size}, in `;
    panel.append(make("p", {}, make("span", { className: "delta" }), text, make("code", {}, tensors.join(", ")), "."));
  }
  const rows = [...cell.rows].sort((a, b) => a[1] - b[1] || a[0] - b[0]);
  const those = (...verdicts) => rows.filter((row) => verdicts.includes(names[row[1]]));
  const lines = those("fail", "fixed", "error", "known").map((row) => {
    const rest = [[mark(row[1]), ` ${data.verdicts[row[1]][2]}`], [outcomes(row)], why(row), worst(row)];
    return make("tr", {}, make("th", { scope: "row" }, invariant(row)), ...rest.map((cell) => make("td", {}, ...cell)));
  });
  const heads = ["invariant", "verdict", "cases", "why", "worst pass, of its bound"].map((text) => make("th", { scope: "col" }, text));
  if (lines.length) panel.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines)));
  const passes = those("pass").map((row) => {
    const told = make("span", { className: "quiet" }, outcomes(row), row[3] === null ? "" : "; worst ", ...worst(row));
    return make("li", {}, mark(row[1]), ` ${invariant(row)} `, told);
  });
  if (passes.length) panel.append(make("ul", { className: "passes" }, ...passes));
  for (const [reason, group] of Map.groupBy(those("not-applicable"), (row) => data.reasons[row[4]])) {
    const which = group.length === data.invariants.length ? "every invariant" : group.map(invariant).join(", ");
    panel.append(make("p", { className: "quiet" }, `– Not applicable: ${reason || "no case it could judge"} (${which})`));
  }
  return panel;
}

function unfold(cell) {
  if (opened) fold();
  opened = cell;
  const row = make("tr", { className: "opened", id: "opened" }, make("td", { colSpan: width + 1 }, detail(cell)));
  cell.td.parentElement.after(row);
  cell.button.ariaExpanded = "true";
  for (const part of [row, cell.td]) part.scrollIntoView({ block: "nearest", inline: "nearest" });
  enter(cell);
  remember();
}

function fold() {
  find("opened").remove();
  opened.button.ariaExpanded = "false";
  opened = null;
  remember();
}

function leave() {
  const { button } = opened;
  fold();
  button.focus();
}

// One cell is the tab stop; arrow keys lead to the others.
function enter(cell) {
  for (const other of live) other.button.tabIndex = other === cell ? 0 : -1;
}

function travel(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[event.key];
  const from = live.find((cell) => cell.button === event.target);
  if (!step || !from) return;
  event.preventDefault();
  let to = cells[from.index + step];
  while (to && (!to.button || off(to))) to = cells[to.index + step];
  if (!to || (Math.abs(step) === 1 && width > 1 && to.family !== from.family)) return;
  enter(to);
  to.button.focus();
}

async function copy(button) {
  const [text, label] = [find(button.dataset.copy), button.textContent];
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch { // no clipboard here: select it, for the reader's own copy command
    getSelection().selectAllChildren(text);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.onclick = () => copy(button);
}
addEventListener("hashchange", restore);
if (live.length) {
  find("map").onclick = ({ target }) => {
    const cell = live.find(({ button }) => button.contains(target));
    if (cell) cell === opened ? leave() : unfold(cell);
  };
  find("map").onkeydown = travel;
  onkeydown = ({ key }) => { if (key === "Escape" && opened) leave(); };
  form.hidden = false;
  form.onsubmit = () => false;
  form.onchange = form.oninput = () => { filter(); remember(); };
  form.onreset = () => setTimeout(form.oninput);
  filter();
}
restore();
