"use strict";
// INDEX: see `_index` in browser.py. BOXES: number of a chunk -> its images, see `_entry`.
const BOXES = {};
const $ = (id) => document.getElementById(id);
const BATCH = 120; // cards that are added at a time
const state = { sort: "", kind: "", class: "", best: INDEX.thresholds.length > 0, score: 0.5 };
let order = []; // numbers of the images that are listed
let shown = 0; // cards so far
let current = -1; // place in `order` of the image that is open

function make(tag, attributes = {}, text = "") {
  const svg = ["svg", "image", "rect", "text", "g"].includes(tag);
  const element = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function sortOf(key) {
  return INDEX.sorts.find((x) => x[0] === key) || INDEX.sorts[0];
}

function list() {
  const [, , descending, values] = sortOf(state.sort);
  const kind = INDEX.kinds.find((x) => x[0] === state.kind);
  const k = INDEX.classes.indexOf(state.class);
  order = INDEX.names.map((_, i) => i).filter(
    (i) => (!kind || kind[2][i] > 0) && (k < 0 || INDEX.of[i].includes(k)));
  const sign = descending ? -1 : 1;
  order.sort((a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return sign * (values[a] - values[b]) || a - b;
  });
  shown = 0;
  $("grid").replaceChildren();
  more();
  $("count").textContent = `${order.length.toLocaleString("en")} images`;
}

function more() {
  const [, label, , values] = sortOf(state.sort);
  const end = Math.min(shown + BATCH, order.length);
  for (; shown < end; shown++) {
    const place = shown, i = order[place];
    const card = make("button", { class: "card", "data-image": i });
    card.append(make("img", { src: `thumbnails/${i}.jpg`, loading: "lazy", alt: "" }));
    card.append(make("div", { title: INDEX.names[i] }, INDEX.names[i]));
    card.append(make("div", {}, values[i] === null ? "\u00a0" : `${label}: ${values[i]}`));
    card.addEventListener("click", () => open(place));
    $("grid").append(card);
  }
}

function load(i) {
  const number = Math.floor(i / INDEX.chunk);
  if (BOXES[number]) return Promise.resolve(BOXES[number][i % INDEX.chunk]);
  return new Promise((resolve, reject) => {
    const script = make("script", { src: `boxes/${number}.js` });
    script.onload = () => resolve(BOXES[number][i % INDEX.chunk]);
    script.onerror = () => reject(new Error(`boxes/${number}.js is missing`));
    document.head.append(script);
  });
}

function open(place) {
  if (place < 0 || place >= order.length) return;
  current = place;
  $("viewer").hidden = false;
  $("grid").hidden = $("end").hidden = true;
  keep();
  draw();
}

function close() {
  const i = order[current];
  current = -1;
  $("viewer").hidden = true;
  $("grid").hidden = $("end").hidden = false;
  keep();
  const card = document.querySelector(`[data-image="${i}"]`);
  if (card) card.focus();
}

function lowest(k, p) { // of a class, in a panel; the first one has no scores
  return state.best ? INDEX.thresholds[p - 1][k] : state.score;
}

async function draw() {
  if (current < 0) return;
  const place = current, i = order[place];
  const [width, height, panels, notes] = await load(i);
  if (place !== current) return; // the user has gone on
  $("name").textContent = `${place + 1} of ${order.length}: ${INDEX.names[i]}`;
  const pictures = panels.map((_, p) => picture(INDEX.panels[p], i, width, height));
  $("panels").replaceChildren(...pictures);
  panels.forEach((boxes, p) => drawBoxes(pictures[p], p, boxes, width, height));
  $("notes").replaceChildren(...notes.map((text) => make("li", {}, text)));
}

function picture(name, i, width, height) {
  const figure = make("figure");
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  svg.append(make("image", { href: `pictures/${i}.jpg`, width, height, preserveAspectRatio: "none" }));
  figure.append(make("figcaption"), svg);
  return figure;
}

function drawBoxes(figure, p, boxes, width, height) {
  // Objects have a score of -1: they are always there.
  const visible = boxes.filter((x) => x[5] < 0 || x[5] >= lowest(x[4], p));
  const [caption, svg] = figure.children;
  caption.textContent = `${INDEX.panels[p]}: ${visible.length}`;
  const space = svg.getBoundingClientRect();
  const unit = Math.max(width / space.width, height / space.height); // a pixel of the screen
  for (const [x, y, w, h, k, score, tag] of visible.reverse()) { // the best on top
    const [tagName, colour] = INDEX.tags[tag];
    const group = make("g", { "data-tag": tagName });
    const line = { stroke: colour, "stroke-width": 2.2 * unit, fill: "none" };
    if (tagName === "crowd") line["stroke-dasharray"] = 6 * unit;
    group.append(make("rect", { x, y, width: w, height: h, ...line }));
    const text = INDEX.classes[k] + (score < 0 ? "" : ` ${score.toFixed(2)}`);
    const size = 12 * unit, below = y < size;
    const at = { x: Math.max(x, 0) + unit, y: below ? Math.max(y, 0) + size : y - 2.5 * unit };
    group.append(make("text", {
      ...at, "font-size": size, fill: "#fff", stroke: "#000", "stroke-width": 2.6 * unit,
      "paint-order": "stroke", "font-family": "system-ui, sans-serif" }, text));
    svg.append(group);
  }
}

function keep() { // the address names what is seen, so that it can be linked to
  const values = new URLSearchParams();
  for (const key of ["sort", "kind", "class"]) if (state[key]) values.set(key, state[key]);
  if (current >= 0) values.set("image", order[current]);
  history.replaceState(null, "", `#${values}`);
}

function fromAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const key of ["sort", "kind", "class"]) {
    const value = values.get(key) || "";
    state[key] = [...$(key).options].some((x) => x.value === value) ? value : "";
    $(key).value = state[key] || $(key).options[0].value;
  }
  list();
  if (values.has("image")) open(order.indexOf(Number(values.get("image"))));
}

function showScore() {
  $("score").value = state.score;
  $("score-value").textContent = state.best ? "" : state.score.toFixed(2);
  $("best").checked = state.best;
}

function start() {
  for (const [key, label] of INDEX.sorts) $("sort").append(make("option", { value: key }, label));
  $("kind").append(make("option", { value: "" }, "anything"));
  for (const [name, meaning, counts] of INDEX.kinds) {
    const number = counts.filter((x) => x > 0).length;
    $("kind").append(make("option", { value: name }, `${meaning} (${number})`));
  }
  $("class").append(make("option", { value: "" }, "all"));
  for (const name of INDEX.classes) $("class").append(make("option", { value: name }, name));
  for (const [, colour, meaning] of INDEX.tags)
    $("legend").append(make("span", { style: `--tag: ${colour}` }, meaning));
  $("best-label").hidden = !INDEX.thresholds.length;
  $("score-label").hidden = INDEX.panels.length < 2;

  for (const key of ["sort", "kind", "class"]) $(key).addEventListener("change", () => {
    if (current >= 0) close();
    state[key] = $(key).value;
    keep();
    list();
  });
  $("score").addEventListener("input", () => {
    Object.assign(state, { best: false, score: Number($("score").value) });
    showScore();
    draw();
  });
  $("best").addEventListener("change", () => {
    state.best = $("best").checked;
    showScore();
    draw();
  });
  $("previous").addEventListener("click", () => open(current - 1));
  $("next").addEventListener("click", () => open(current + 1));
  $("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (current < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = event.target.matches("select, input[type=range]"); // has its own arrow keys
    if (moves && event.key !== "Escape") return;
    if (event.key === "ArrowRight") open(current + 1);
    else if (event.key === "ArrowLeft") open(current - 1);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  window.addEventListener("hashchange", fromAddress);
  const observer = new IntersectionObserver((entries) => {
    if (!entries[entries.length - 1].isIntersecting || shown >= order.length) return;
    more();
    observer.unobserve($("end")); // observed anew, it reports whether there is still space
    observer.observe($("end"));
  }, { rootMargin: "600px" });
  observer.observe($("end"));
  showScore();
  fromAddress();
}

start();
