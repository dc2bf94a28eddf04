// Keys, updates of a live run, and the list and the rows of an export. Texts become text nodes, never HTML.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
const shown = (selector) => all(selector).find((one) => one.closest("[hidden]") === null);
const list = find('main[data-page="list"]');
// A list or a row that may change without a person.
const live = find("main[data-live]");
const help = find("#help");

// --- Keys ---

const LIST_STEPS = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };

// Focus the next or the previous row of the list; at an end of the page, go to another page.
function moveInList(step) {
  const links = all("[data-row]");
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step];
  if (next) next.focus();
  else shown(`[data-page="${step}"][href]`)?.click();
}

function use(target) {
  if (target.matches('[type="radio"]')) target.checked = true;
  if (target.matches("input")) target.focus();
  else if (target.getAttribute("aria-disabled") === null) target.click();
}

// Do what a key means here; return whether it means something.
function press(key) {
  if (key === "?") {
    if (help.open) help.close();
    else help.showModal();
    return true;
  }
  if (help.open) return false;
  const target = all("[data-key]").find(
    (one) => one.dataset.key.split(" ").includes(key) && one.closest("[hidden]") === null);
  const search = key === "/" && (shown('[name="q"]') ?? shown('[data-key="l"]'));
  const confirm = key === "Enter" && shown("[data-confirm]");
  const found = target || search || confirm;
  if (found) {
    use(found);
    return true;
  }
  if (key in LIST_STEPS && shown(".rows")) {
    moveInList(LIST_STEPS[key]);
    return true;
  }
  return false;
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || event.isComposing) return;
  // A key that is held down goes through the list; it confirms and undoes nothing, since the rows pass unread.
  if (event.repeat && !(event.key in LIST_STEPS)) {
    if (event.key === "Enter" && !event.target.matches("textarea")) event.preventDefault();
    return;
  }
  if (event.target.matches('textarea, select, input:not([type="radio"])')) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.ctrlKey) event.target.form?.requestSubmit();
    return;
  }
  // Enter on a link or a button is that of the browser.
  const isNative = event.key === "Enter" && event.target.closest("a, button, summary") !== null;
  if (!event.ctrlKey && !isNative && press(event.key)) event.preventDefault();
});
document.addEventListener("click", (event) => event.target.closest("[data-help]") && help.showModal());

// --- Updates of a live run ---

const REFRESH_MS = 2000;

// Whether a person has begun to enter something in this part of the page.
const isTouched = (part) => all("input, textarea", part).some((one) => one === document.activeElement
  || (one.type === "radio" ? one.checked !== one.defaultChecked : one.value !== one.defaultValue));

async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement?.getAttribute("href");
  const scrolled = all(".scroll").map((one) => one.scrollLeft);
  const opened = all("details[open] summary").map((one) => one.textContent);
  for (const part of all("[data-refresh]")) {
    const replacement = find(`[data-refresh="${part.dataset.refresh}"]`, fresh);
    if (replacement && !isTouched(part)) part.replaceChildren(...replacement.childNodes);
  }
  all(".scroll").forEach((one, at) => (one.scrollLeft = scrolled[at] ?? 0));
  for (const one of all("summary")) if (opened.includes(one.textContent)) one.parentElement.open = true;
  if (focused) all("a").find((one) => one.getAttribute("href") === focused)?.focus({ preventScroll: true });
}

async function watch() {
  try {
    const answer = await fetch(live.dataset.live);
    if (!answer.ok) return;
    const { version, is_live: isLive } = await answer.json();
    if (version !== live.dataset.version) {
      await refresh();
      live.dataset.version = version;
    }
    if (!isLive) return;
  } catch {
    // The server does not answer now; the next question may find it again.
  }
  setTimeout(watch, REFRESH_MS);
}

if (live) setTimeout(watch, REFRESH_MS);

// --- Export: the list ---

const facts = list?.dataset.export ? JSON.parse(list.dataset.export) : null;
const story = find("#story");

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const parameters = () => new URLSearchParams(location.hash.slice(1));

// The address of the page with these parameters; null removes one.
function address(changes) {
  const changed = parameters();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") changed.delete(name);
    else changed.set(name, value);
  }
  return `#${changed}`;
}

const format = (count) => count.toLocaleString("en");
const columnAt = (name) => facts.columns.findIndex((column) => column.name === name);

// Whether a row [cells, cost, labels, chunk] fits a parameter.
function fits(row, name, value) {
  const [cells, cost, labels] = row;
  const label = facts.labels.findIndex((one) => facts.label + one === name);
  const cell = cells[columnAt({ error: "error_type", reviewed: "answered_by" }[name] ?? name)];
  if (label >= 0) return labels[label] === value;
  if (name === "q") return facts.searched.some((at) => cells[at].toLowerCase().includes(value.toLowerCase()));
  if (name === "gold") {
    return cell.startsWith(facts.wrong) && (value !== "open" || cells[columnAt("answered_by")] === "");
  }
  if (name === "reviewed") return (cell !== "") === (value === "yes");
  if (name === "cost") return cost !== null && cost >= Number(value);
  if (name === "agreement") return cell !== "" && parseFloat(cell) < 100 * Number(value);
  return cell === undefined || cell === value;
}

function ordered(places, sort) {
  const rows = globalThis.viewRows;
  const at = facts.columns.findIndex((column) => column.sort === sort.replace(/^-/, ""));
  if (at < 0) return places;
  const { name, kind } = facts.columns[at];
  const number = (text) => (text === "" ? null : Number(text));
  const value = (place) => {
    const [cells, cost] = rows[place];
    if (name === "cost") return cost;
    return kind === "number" ? number(cells[at].replace("%", "")) : cells[at] || null;
  };
  const sign = sort.startsWith("-") ? -1 : 1;
  const compare = ([first, a], [second, b]) => {
    if (first === second) return a - b;
    if (first === null || second === null) return first === null ? 1 : -1;
    return first < second ? -sign : sign;
  };
  return places.map((place) => [value(place), place]).sort(compare).map(([, place]) => place);
}

// The places of the rows that the parameters select, in order.
function selected() {
  const rows = globalThis.viewRows ?? [];
  const filters = Array.from(parameters()).filter(([name, value]) => value && !["page", "sort", "row"].includes(name));
  const places = Array.from(rows.keys()).filter((place) => filters.every(([name, value]) => fits(rows[place], name, value)));
  return ordered(places, parameters().get("sort") ?? "");
}

const setLink = (link, href) => {
  for (const [name, value] of [["href", href], ["aria-disabled", href === null ? "true" : null]]) {
    if (value === null) link.removeAttribute(name);
    else link.setAttribute(name, value);
  }
};

function showList() {
  const chosen = parameters();
  const places = selected();
  const pages = Math.max(1, Math.ceil(places.length / facts.page_rows));
  const number = Math.min(pages, Math.max(1, Math.floor(Number(chosen.get("page"))) || 1));
  const start = (number - 1) * facts.page_rows;
  const here = places.slice(start, start + facts.page_rows);
  const cell = (place) => (text, at) => {
    const { kind, title } = facts.columns[at];
    const content = element("bdi", {}, text);
    const inside = kind === "id" ? element("a", { href: address({ row: place }), "data-row": "" }, content) : content;
    return element("td", { class: kind, "data-title": title, "data-status": kind === "status" ? text : null }, inside);
  };
  const lines = here.map((place) => element("tr", {}, ...globalThis.viewRows[place][0].map(cell(place))));
  const none = element("tr", { class: "none" }, element("td", { colspan: facts.columns.length }, "No row fits these filters."));
  find(".rows tbody").replaceChildren(...(lines.length ? lines : [none]));
  const place = here.length ? `${format(start + 1)} to ${format(start + here.length)} of ${format(places.length)} rows` : "no row";
  for (const text of all(".pager .place", list)) text.textContent = place;
  for (const link of all("[data-page]", list)) {
    const target = number + Number(link.dataset.page);
    setLink(link, target >= 1 && target <= pages ? address({ page: target > 1 ? target : null }) : null);
  }
  const sort = chosen.get("sort") ?? "";
  for (const link of all("[data-sort]", list)) {
    const name = link.dataset.sort;
    setLink(link, address({ sort: sort === name ? `-${name}` : name, page: null }));
    if (sort.replace(/^-/, "") !== name) link.closest("th").removeAttribute("aria-sort");
    else link.closest("th").setAttribute("aria-sort", sort === name ? "ascending" : "descending");
  }
  for (const input of all(".filters [name]")) input.value = chosen.get(input.name) ?? "";
}

// --- Export: a row ---

const chunks = new Map();
globalThis.viewStories = (chunk, stories) => chunks.set(chunk, stories);

function blockOf({ kind, title, text, lines }) {
  const head = title ? [element("h3", {}, element("bdi", {}, title))] : [];
  if (kind === "text") return [...head, element("pre", { dir: "auto", tabindex: "0" }, text)];
  if (kind === "fields") {
    const pairs = lines.flatMap(([name, value]) => [
      element("dt", {}, element("bdi", {}, name)), element("dd", { dir: "auto" }, value)]);
    return [...head, element("dl", {}, ...pairs)];
  }
  if (kind === "code") {
    const shownLines = lines.map(([name, line]) => element("span", { class: name }, `${line}\n`));
    const more = text ? [element("p", { class: "muted" }, text)] : [];
    return [...head, element("pre", { class: "code", tabindex: "0" }, ...shownLines), ...more];
  }
  const [titles, ...rest] = lines;
  const line = (name, texts) => element("tr", {}, ...texts.map((one) => element(name, {}, element("bdi", {}, one))));
  const table = element("table", {}, element("thead", {}, line("th", titles)), element("tbody", {}, ...rest.map((texts) => line("td", texts))));
  return [...head, element("div", { class: "scroll" }, table)];
}

function sectionOf({ title, blocks, is_folded: isFolded }) {
  const heading = element("h2", {}, title);
  const parts = blocks.flatMap(blockOf);
  if (!isFolded) return element("section", {}, heading, ...parts);
  return element("section", {}, element("details", {}, element("summary", {}, heading), ...parts));
}

function navigation(place) {
  const places = selected();
  const at = places.indexOf(place);
  const link = (title, key, keys, target) => {
    const href = target === undefined ? null : address({ row: target });
    const disabled = href === null ? "true" : null;
    return element("a", { href, "aria-disabled": disabled, "data-key": keys }, `${title} `, element("kbd", {}, key));
  };
  return element("nav", { class: "pager", "aria-label": "Rows of the list" }, link("List", "l", "l", null),
    link("Previous", "k", "k ArrowLeft", places[at - 1]),
    link("Next", "j", "j ArrowRight", at < 0 ? undefined : places[at + 1]),
    ...(at < 0 ? [] : [element("span", { class: "place" }, `${format(at + 1)} of ${format(places.length)}`)]));
}

function showStory(place) {
  const found = chunks.get(globalThis.viewRows[place][3])[place];
  const source = found.source ? [element("span", {}, `the answer of row ${found.source[1]} of run ${found.source[0]}`)] : [];
  const by = found.answered_by ? [element("span", {}, `reviewed by ${found.answered_by}`)] : [];
  const status = element("span", { class: "status", "data-status": found.status }, found.status);
  const title = element("h1", {}, "Row ", element("bdi", {}, found.row_id));
  const head = element("header", {}, title, element("p", { class: "facts" }, status, ...by, ...source));
  const sections = element("div", { class: "story" }, ...found.sections.map(sectionOf));
  story.replaceChildren(navigation(place), head, sections);
  story.hidden = false;
  list.hidden = true;
  scrollTo(0, 0);
}

function show() {
  const place = Number(parameters().get("row") ?? "-1");
  const row = globalThis.viewRows?.[place];
  if (!row) {
    story.hidden = true;
    list.hidden = false;
    showList();
  } else if (chunks.has(row[3])) {
    showStory(place);
  } else {
    const script = element("script", { src: `data/stories-${row[3]}.js` });
    script.addEventListener("load", () => Number(parameters().get("row")) === place && showStory(place));
    document.body.append(script);
  }
}

if (facts) {
  addEventListener("hashchange", show);
  find(".filters").addEventListener("submit", (event) => {
    event.preventDefault();
    // The next keys are for the list.
    document.activeElement?.blur();
    const entered = new URLSearchParams(Array.from(new FormData(event.target)).filter(([, value]) => value));
    const sort = parameters().get("sort");
    if (sort) entered.set("sort", sort);
    location.hash = entered;
  });
  setLink(find("[data-clear]"), "#");
  show();
}
