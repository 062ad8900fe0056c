// One response: its tokens, the values shown on hover and on focus, and its sums.
const tip = at("tip");

function drawResponse(side, name, run) {
  const tokens = element("div", { className: "tokens" });
  tokens.setAttribute("role", "group");
  tokens.setAttribute("aria-label", `${name} response, ${side.words.length} tokens; arrow keys walk through them`);
  const joints = new Map();
  for (const [start, end, text] of side.joined)
    for (let place = start; place < end; place++) joints.set(place, { start, end, text });
  const spaced = new Set(side.spaced);
  side.words.forEach((word, place) => {
    const joint = joints.get(place);
    const inside = joint && place > joint.start;
    const own = joint ? (inside ? "\u00b7" : joint.text) : data.texts[word][0];
    const text = spaced.has(place) ? ` ${own}` : own;
    const token = element("span", { textContent: text, tabIndex: place ? -1 : 0 });
    token.place = place;
    token.joint = joint;
    if (inside) token.dataset.joint = "";
    tokens.append(token);
  });
  Object.assign(tokens, { side, run, sums: element("dl") });
  colourTokens(tokens);
  const heading = element("h3", { textContent: name });
  return element("div", {}, heading, tokens, tokens.sums);
}

function valuesOf(tokens) {
  return tokens.side.records[recordOf(tokens.run)];
}

function colourTokens(tokens) {
  const layer = layers[state.layer];
  const record = valuesOf(tokens);
  const values = record[state.layer];
  tokens.sums.replaceChildren(...sums(record.sums));
  for (const token of tokens.children) {
    token.className = shade(layer, values ? values[token.place] : null);
    if ("joint" in token.dataset) token.classList.add("joint");
  }
}

function sums(found) {
  const rows = [
    ["tokens", found.tokens],
    ["sparsity of reward mask", percent(found.reward_mask_sparsity)],
    ["of KL mask", percent(found.kl_mask_sparsity)],
    ["sums: reward mask", number(found.reward_mask)],
    ["KL mask", number(found.kl_mask)],
    ["log-ratio", number(found.log_ratio)],
    ["KL", number(found.token_kl)],
    ["weighted contribution", number(found.contribution)],
  ].filter(([, value]) => value !== "\u2013");
  const entry = ([name, value]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
  return rows.map(entry);
}

function showTip(token) {
  const side = token.parentElement.side;
  const values = valuesOf(token.parentElement);
  const [word, id] = data.texts[side.words[token.place]];
  const joint = token.joint;
  const part = joint ? `, part ${token.place - joint.start + 1} of ${joint.end - joint.start} of ${joint.text}` : "";
  const rows = data.layers.map((layer) => {
    const value = values[layer.key] ? values[layer.key][token.place] : null;
    const unit = value !== null && layer.unit ? ` ${layer.unit}` : "";
    const text = (layer.signed && value !== null ? signed(value) : number(value)) + unit;
    return element("tr", {}, element("td", { textContent: layer.name }), element("td", { textContent: text }));
  });
  const title = element("strong", { textContent: word });
  const where = element("div", { textContent: `token ${token.place + 1}, id ${id}${part}` });
  tip.replaceChildren(title, where, element("table", {}, element("tbody", {}, ...rows)));
  tip.hidden = false;
  const box = token.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const below = box.bottom + 6 + own.height < innerHeight;
  tip.style.top = `${below ? box.bottom + 6 : Math.max(4, box.top - own.height - 6)}px`;
  tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - own.width - 8))}px`;
  token.setAttribute("aria-describedby", "tip");
}

function hideTip() {
  tip.hidden = true;
  for (const token of document.querySelectorAll("[aria-describedby=tip]")) token.removeAttribute("aria-describedby");
}

function tokenOf(event) {
  return event.target.closest ? event.target.closest(".tokens > span") : null;
}

function walk(event) {
  const token = tokenOf(event);
  if (!token) return;
  const all = token.parentElement.children;
  const goals = {
    ArrowRight: token.place + 1,
    ArrowDown: token.place + 1,
    ArrowLeft: token.place - 1,
    ArrowUp: token.place - 1,
    Home: 0,
    End: all.length - 1,
  };
  if (!(event.key in goals)) return;
  event.preventDefault();
  const next = all[Math.max(0, Math.min(all.length - 1, goals[event.key]))];
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
