// A card as a drawing of its own: every coloured box and every line of text where the browser has put it.
function drawingOf(card) {
  const frame = card.getBoundingClientRect();
  const shape = (name, properties) => {
    const made = document.createElementNS(at("drawing").namespaceURI, name);
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    return made;
  };
  const box = (rect, fill) =>
    shape("rect", { x: rect.left - frame.left, y: rect.top - frame.top, width: rect.width, height: rect.height, fill });
  const drawing = shape("svg", { width: frame.width, height: frame.height, viewBox: `0 0 ${frame.width} ${frame.height}` });
  drawing.append(box(frame, getComputedStyle(card).backgroundColor));
  for (const token of card.querySelectorAll(".tokens > span"))
    for (const rect of token.getClientRects()) drawing.append(box(rect, getComputedStyle(token).backgroundColor));
  const texts = document.createTreeWalker(card, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const style = getComputedStyle(texts.currentNode.parentElement);
    if (texts.currentNode.parentElement.closest("button")) continue;
    for (const { text, left, right, bottom } of linesOf(texts.currentNode)) {
      // A text begins at its right end where it is written from there.
      const line = shape("text", {
        direction: style.direction, x: (style.direction === "rtl" ? right : left) - frame.left,
        y: bottom - frame.top - 0.3 * parseFloat(style.fontSize), fill: style.color,
        "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight,
        "xml:space": "preserve",
      });
      line.textContent = text;
      drawing.append(line);
    }
  }
  return new XMLSerializer().serializeToString(drawing);
}

// The pieces of a text that stand on one line each, and where.
function linesOf(node) {
  const range = document.createRange();
  const lines = [];
  let place = 0;
  for (const character of node.data) {
    range.setStart(node, place);
    range.setEnd(node, (place += character.length));
    const rect = range.getBoundingClientRect();
    const last = lines.at(-1);
    if (!rect.width) {
      if (last && character !== "\n") last.text += character;
    } else if (last && Math.abs(last.bottom - rect.bottom) < 2) {
      last.text += character;
      last.left = Math.min(last.left, rect.left);
      last.right = Math.max(last.right, rect.right);
    } else lines.push({ text: character, left: rect.left, right: rect.right, bottom: rect.bottom });
  }
  return lines;
}

function saveCard(card) {
  download(URL.createObjectURL(new Blob([drawingOf(card)], { type: "image/svg+xml" })), `pair-${card.pair.index}.svg`);
}
