"use strict";
// What the page holds, and its parts besides tokens: texts, tables, pictures and folds.
const [SHORT_CELL, LONG_CELL, WIDE] = [12, 24, 5];
const page = JSON.parse(document.getElementById("data").textContent);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function at(id) {
  return document.getElementById(id);
}

// A setting's name or a path breaks between its parts first; a number never at its point.
function breakable(text) {
  return text.split(/(?<=[._/])(?=\p{L})/u).flatMap((part, place) => (place ? [element("wbr"), part] : [part]));
}

function tableOf({ head, rows, marked }) {
  const kind = ({ length }) => (length > LONG_CELL ? "long" : length > SHORT_CELL ? "middling" : "");
  const cell = (name, text) => element(name, { dir: "auto", className: kind(text) }, ...breakable(text));
  const line = (name, cells) => element("tr", {}, ...cells.map((text) => cell(name, text)));
  const body = rows.map((cells) => line("td", cells));
  // On a small window a wide table becomes one card per row, in which every cell says what it is.
  for (const row of body) head.forEach((text, place) => (row.children[place].dataset.head = text));
  for (const place of marked) body[place].className = "marked";
  const made = element("table", { className: head.length > WIDE ? "wide" : "" }, element("thead", {}, line("th", head)), element("tbody", {}, ...body));
  return element("div", { className: "scroll" }, made);
}

function pictureOf({ svg, name, alt }) {
  const image = element("img", { alt, src: `data:image/svg+xml;base64,${svg}`, loading: "lazy" });
  const save = element("button", { type: "button", className: "save", textContent: "save SVG", ariaLabel: `save ${name} as SVG` });
  save.addEventListener("click", () => download(image.src, `${name}.svg`));
  return element("figure", {}, image, save);
}

function download(address, name) {
  element("a", { download: name, href: address }).click();
}

function blockOf(block) {
  if (block.table) return tableOf(block.table);
  if (block.pictures) return element("div", { className: "pictures" }, ...block.pictures.map(pictureOf));
  if (block.quote !== undefined) return element("p", { className: "quote", textContent: block.quote, dir: "auto" });
  if (block.fold === undefined) return element("p", { textContent: block.text, dir: "auto" });
  const fold = element("details", {}, element("summary", { textContent: block.fold }));
  // Made when it is opened: a report of many items stays quick.
  fold.addEventListener("toggle", () => fold.childElementCount > 1 || fold.append(...block.blocks.map(blockOf)));
  return fold;
}

function drawParts() {
  at("facts").textContent = page.facts.join(" \u00b7 ");
  for (const { name, title, blocks } of page.parts) {
    const heading = element("h2", { className: "part", textContent: title });
    at("parts").append(element("section", { id: name }, heading, ...blocks.map(blockOf)));
  }
  const names = page.parts.map(({ name, title }) => [name, title]);
  if (page.tokens) names.push(["tokens", "Tokens"]);
  const links = names.map(([name, title]) => element("a", { href: `#${name}`, textContent: title }));
  at("contents").append(...(names.length > 1 ? links : []));
  at("tokens").hidden = !page.tokens;
}
