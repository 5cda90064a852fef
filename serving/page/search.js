"use strict";

// What people see and hear goes into the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// What the server says of the index; what is looked for; what came; what was clicked.
let stats = null;
let query = null;
let answer = null;
let shown = 0;  // which of several queries
let asking = 0;  // the number of the last request: an older one that comes later is not shown
let verdicts = new Map();  // "query|item" to {same, times}
let marked = new Set();
let lastClick = null;  // what Undo takes back
let itemOf = new Map();

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria") || key === "role" || key === "for") made.setAttribute(key.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase()), value);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (value !== undefined) made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(100 * share)} %`;

function say(sentence) {
  const live = $("live");
  live.textContent = "";
  requestAnimationFrame(() => { live.textContent = sentence; });
}

// ---- Asking the server.

class Refusal extends Error {
  constructor(status, sentence) { super(sentence); this.status = status; }
}

// A token stands in the address once, behind #, where no server sees it.
let token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname);
} else token = sessionStorage.getItem("token");

async function ask(path, options = {}) {
  const headers = { "X-Requested-With": "search", ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    await askForToken();
    return ask(path, options);
  }
  if (!response.ok) {
    let sentence = `The server answered ${response.status}.`;
    try { sentence = (await response.json()).error; } catch { /* no JSON: a proxy's page */ }
    throw new Refusal(response.status, sentence.charAt(0).toUpperCase() + sentence.slice(1) + (/[.!?]$/.test(sentence) ? "" : "."));
  }
  return response;
}

const askJson = async (path, options) => (await ask(path, options)).json();
const postJson = (path, content) => askJson(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });

let tokenAsked = null;

function askForToken() {
  tokenAsked ??= new Promise((resolve) => {
    $("token-form").onsubmit = () => {
      token = $("token-text").value.trim();
      sessionStorage.setItem("token", token);
      $("token-text").value = "";
      tokenAsked = null;
      resolve();
    };
    $("token").oncancel = (event) => event.preventDefault();
    $("token").showModal();
  });
  return tokenAsked;
}

function imageAddress(id, size = "thumb") { return `api/items/${id}/image?size=${size}`; }

// With a token pictures have to be fetched, since an <img> sends none; those out of sight wait.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    fetchImage(entry.target, entry.target.dataset.address);
  }
}, { rootMargin: "300px" });

async function fetchImage(image, address) {
  try {
    const blob = await (await ask(address)).blob();
    const url = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
  } catch { image.dispatchEvent(new Event("error")); }
}

function showImage(image, address, atOnce = false) {
  if (!token) image.src = address;
  else if (atOnce) fetchImage(image, address);
  else { image.dataset.address = address; watcher.observe(image); }
}

// A sound is fetched where a token is asked for, as pictures are.
async function showSound(player, address) {
  if (!token) { player.src = address; return; }
  try { player.src = URL.createObjectURL(await (await ask(address)).blob()); } catch { player.hidden = true; }
}

const takesSounds = () => stats.takes.includes("audio") && !stats.takes.includes("image");
const typeOf = (file) => (/^(image|audio)\//.test(file.type) ? file.type : "application/octet-stream");

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(text);
}

// ---- What is looked for.

// {kind: images, files, urls, boxes, combine} or {kind: sound, file, url} or {kind: text, text} or {kind: item, item}
function beginSearch(next, remember = true) {
  query = next;
  shown = 0;
  answer = null;
  marked.clear();
  showMarked();
  if (remember) history.pushState(remembered(next), "");
  scrollTo({ top: 0 });
  showQuery();
  return search();
}

// Files cannot stand in the browser's history; what is asked by them stays here, by a number.
const asked = [];

function remembered(state) {
  if (state.kind !== "images" && state.kind !== "sound") return { kind: state.kind, text: state.text, item: state.item };
  if (state.number === undefined) { state.number = asked.length; asked.push(state); }
  return { kind: state.kind, number: state.number };
}

addEventListener("popstate", (event) => {
  const state = event.state;
  if (!state) return begin();
  if (state.number !== undefined) {
    if (asked[state.number]) return beginSearch(asked[state.number], false);
    return begin();
  }
  beginSearch(state, false);
});

function begin() {
  query = answer = null;
  marked.clear();
  showMarked();
  document.body.dataset.state = "empty";
  delete document.body.dataset.kind;
  document.title = stats ? stats.name : "Search";
  $("start").hidden = false;
  $("found").hidden = true;
  $("error").hidden = true;
  $("text").value = "";
}

function searchFiles(files) {
  const images = [...files].filter((file) => file.size);
  if (!images.length) return;
  if (!stats) return;
  if (!stats.takes.includes("image") && !takesSounds()) return showError(new Refusal(422, "This index's model takes no pictures, only words."));
  const tooLarge = images.find((file) => file.size > stats.max_upload);
  if (tooLarge) return showError(new Refusal(413, `A ${takesSounds() ? "sound" : "picture"} has ${(tooLarge.size / 1e6).toFixed(1)} MB; the server takes up to ${(stats.max_upload / 1e6).toFixed(0)} MB.`));
  if (takesSounds()) {
    if (images.length > 1) notify(`The first of ${images.length} sounds is looked for.`);
    return beginSearch({ kind: "sound", file: images[0], url: URL.createObjectURL(images[0]) });
  }
  const chosen = images.slice(0, 16);
  if (images.length > chosen.length) notify(`The first ${chosen.length} of ${images.length} pictures are looked for.`);
  beginSearch({ kind: "images", files: chosen, urls: chosen.map((file) => URL.createObjectURL(file)), boxes: chosen.map(() => null), combine: "each" });
}

function searchText(text) { if (text.trim()) beginSearch({ kind: "text", text: text.trim() }); }
function searchItem(id) { beginSearch({ kind: "item", item: id }); }

function filters() {
  const chosen = { k: Number($("k").value) };
  if ($("label").value.trim()) chosen.labels = [$("label").value.trim()];
  if ($("category").value) chosen.categories = [$("category").value];
  if ($("group").checked) chosen.group = "label";
  if (Number($("diversity").value)) chosen.diversity = Number($("diversity").value);
  return chosen;
}

async function search() {
  const number = ++asking;
  const isOurs = () => number === asking;
  $("error").hidden = true;
  showWaiting();
  try {
    const given = filters();
    let got;
    if (query.kind === "text") got = await postJson("api/search", { text: query.text, ...given });
    else if (query.kind === "item") got = await postJson("api/search", { item: query.item, ...given });
    else if (query.kind === "sound") got = await postFile(`api/search?${asWords(given)}`, query.file);
    else if (query.combine === "mean" && query.files.length > 1) {
      const images = await Promise.all(query.files.map(base64));
      got = await postJson("api/search", { images, boxes: query.boxes, combine: "mean", ...given });
    } else got = await searchEach(query, given, isOurs);
    if (!isOurs()) return;
    answer = got;
    showAnswer();
  } catch (error) {
    if (isOurs()) showError(error);
  }
}

const postFile = (path, file) => askJson(path, { method: "POST", headers: { "Content-Type": typeOf(file) }, body: file });

// Filters as they stand behind an address.
function asWords(given) {
  const words = new URLSearchParams({ k: given.k });
  if (given.labels) words.set("label", given.labels[0]);
  if (given.categories) words.set("category", given.categories[0]);
  if (given.group) words.set("group", given.group);
  if (given.diversity) words.set("diversity", given.diversity);
  return words;
}

// Each picture by a request of its own, so that a limit on one is none on all.
async function searchEach(query, given, isOurs) {
  const whole = { queries: [], milliseconds: { read: 0, embed: 0, search: 0 } };
  for (const [number, file] of query.files.entries()) {
    if (!isOurs()) return whole;
    const words = asWords(given);
    if (query.boxes[number]) words.set("box", query.boxes[number].map(Math.round).join(","));
    const got = await postFile(`api/search?${words}`, file);
    whole.queries.push(got.queries[0]);
    whole.items = got.items;
    for (const name of Object.keys(whole.milliseconds)) whole.milliseconds[name] += got.milliseconds[name];
  }
  return whole;
}

// ---- What is shown of the query.

function showQuery() {
  document.body.dataset.state = "found";
  document.body.dataset.kind = query.kind;
  if (query.kind !== "text") $("text").value = "";
  $("start").hidden = true;
  $("found").hidden = false;
  const isImages = query.kind === "images";
  const isSound = query.kind === "sound";
  $("quote").hidden = query.kind !== "text" && !isSound;
  $("listen").hidden = !isSound;
  $("preview").hidden = query.kind === "text" || isSound;
  $("stage").classList.toggle("can-crop", isImages);
  $("hint").hidden = !isImages;
  $("keep").hidden = !(isImages || isSound) || !stats || stats.read_only;
  $("strip").hidden = $("combine").hidden = !(isImages && query.files.length > 1);
  if (query.kind === "text") {
    $("quote").textContent = query.text;
    $("text").value = query.text;
  } else if (isSound) {
    $("quote").textContent = query.file.name;
    $("listen").src = query.url;
  } else if (query.kind === "item") {
    showImage($("preview"), imageAddress(query.item, "full"), true);
    $("preview").alt = "The item that others are compared with";
  } else showStrip();
  showCrop();
}

function showStrip() {
  $("preview").src = query.urls[shown];
  $("preview").alt = `Your picture ${query.files.length > 1 ? `${shown + 1} of ${query.files.length}` : ""}`.trim();
  const buttons = query.urls.map((url, number) => {
    const image = element("img", { src: url, alt: `Picture ${number + 1}` });
    const button = element("button", { type: "button", ariaPressed: String(number === shown), onclick: () => choosePicture(number) }, image);
    return element("li", {}, button);
  });
  $("strip").replaceChildren(...buttons);
  for (const button of $("combine").children) button.setAttribute("aria-pressed", String(button.dataset.value === query.combine));
}

function choosePicture(number) {
  shown = number;
  marked.clear();
  showMarked();
  showStrip();
  showCrop();
  if (answer) showAnswer();
  $("strip").children[number].firstChild.focus();
}

// ---- A part of the picture.

function showCrop() {
  const box = query && query.kind === "images" ? query.boxes[shown] : null;
  const image = $("preview");
  $("crop").hidden = $("whole").hidden = !box;
  if (!box || !image.naturalWidth) return;
  const scale = image.clientWidth / image.naturalWidth;
  Object.assign($("crop").style, {
    left: `${image.offsetLeft + box[0] * scale}px`, top: `${image.offsetTop + box[1] * scale}px`,
    width: `${(box[2] - box[0]) * scale}px`, height: `${(box[3] - box[1]) * scale}px`,
  });
}

function setCrop(box) { query.boxes[shown] = box; showCrop(); }

let dragging = null;

function pointOf(event) {
  const image = $("preview");
  const frame = image.getBoundingClientRect();
  const scale = image.naturalWidth / frame.width;
  const x = Math.min(Math.max(event.clientX - frame.left, 0), frame.width) * scale;
  const y = Math.min(Math.max(event.clientY - frame.top, 0), frame.height) * scale;
  return [x, y];
}

$("stage").addEventListener("pointerdown", (event) => {
  if (!query || query.kind !== "images" || event.button) return;
  dragging = { from: pointOf(event), before: query.boxes[shown], moved: false };
  $("stage").setPointerCapture(event.pointerId);
});
$("stage").addEventListener("pointermove", (event) => {
  if (!dragging) return;
  const [x, y] = pointOf(event);
  const [left, top] = dragging.from;
  const least = 8 * $("preview").naturalWidth / $("preview").clientWidth;
  // A shake of the hand is no box.
  if (Math.abs(x - left) < least || Math.abs(y - top) < least) return;
  dragging.moved = true;
  setCrop([Math.min(left, x), Math.min(top, y), Math.max(left, x), Math.max(top, y)].map(Math.round));
});
for (const kind of ["pointerup", "pointercancel"]) $("stage").addEventListener(kind, () => {
  if (dragging && dragging.moved) search();
  dragging = null;
});
$("stage").addEventListener("keydown", (event) => {
  if (!query || query.kind !== "images") return;
  const { naturalWidth: width, naturalHeight: height } = $("preview");
  const step = Math.max(1, Math.round(Math.max(width, height) / 24));
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const move = moves[event.key];
  if (event.key === "Enter") search();
  else if (event.key === "Escape") { if (query.boxes[shown]) { setCrop(null); search(); } }
  else if (move) {
    let [left, top, right, bottom] = query.boxes[shown] ?? [0, 0, width, height];
    if (event.shiftKey) {
      right = Math.min(width, Math.max(left + step, right + move[0]));
      bottom = Math.min(height, Math.max(top + step, bottom + move[1]));
    } else {
      const dx = Math.min(Math.max(move[0], -left), width - right);
      const dy = Math.min(Math.max(move[1], -top), height - bottom);
      [left, top, right, bottom] = [left + dx, top + dy, right + dx, bottom + dy];
    }
    setCrop([left, top, right, bottom].map(Math.round));
    say(`Crop from ${percent(left / width)}, ${percent(top / height)} to ${percent(right / width)}, ${percent(bottom / height)}`);
  } else return;
  event.preventDefault();
});
$("whole").onclick = () => { setCrop(null); search(); $("stage").focus(); };

// As large as there is room for, small ones enlarged, in the shape that they have.
function sizePreview() {
  const image = $("preview");
  if (!image.naturalWidth) return;
  const isNarrow = matchMedia("(max-width: 900px)").matches;
  const [width, height, least] = isNarrow ? [120, 150, 96] : [258, 300, 200];
  const grown = Math.max(1, least / Math.max(image.naturalWidth, image.naturalHeight));
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight, grown);
  image.style.width = `${image.naturalWidth * scale}px`;
  image.style.height = `${image.naturalHeight * scale}px`;
  showCrop();
}
$("preview").addEventListener("load", sizePreview);
addEventListener("resize", sizePreview);

// ---- Answers.

function showWaiting() {
  $("hits").setAttribute("aria-busy", "true");
  $("summary").textContent = "Searching …";
  $("took").textContent = "";
  $("verdict").hidden = true;
  const empty = Array.from({ length: Math.min(24, Number($("k").value)) }, () =>
    element("li", { className: "tile empty", ariaHidden: "true" }, element("span", { className: "picture" }), element("div", { className: "caption" }, "…"), element("div", { className: "meter" })));
  // What is there stays until a moment has passed: most answers are faster.
  const number = asking;
  setTimeout(() => {
    if (number === asking && $("hits").getAttribute("aria-busy") === "true") $("hits").replaceChildren(element("ul", { className: "grid" }, ...empty));
  }, answer ? 250 : 0);
}

function showAnswer() {
  const part = answer.queries[Math.min(shown, answer.queries.length - 1)];
  const hits = part.hits;
  itemOf = new Map(hits.map((hit) => [hit.id, hit]));
  $("hits").setAttribute("aria-busy", "false");
  $("summary").textContent = hits.length ? plural(hits.length, "result") : "Nothing found";
  const { read, embed, search } = answer.milliseconds;
  $("took").textContent = `${(read + embed + search).toFixed(0)} ms, ${search.toFixed(0)} of them to search ${plural(answer.items, stats ? stats.noun : "item")}`;
  $("verdict").hidden = part.unknown !== true;
  if (part.unknown === true) {
    const best = hits.length && hits[0].same !== null ? ` The nearest is so with a probability of ${percent(hits[0].same)}.` : "";
    $("verdict").textContent = `Unknown: nothing here is called the same.${best}`;
  }
  if (!hits.length) {
    const why = $("label").value || $("category").value ? "No item passes these filters." : "The index is empty.";
    $("hits").replaceChildren(element("p", { className: "nothing" }, element("strong", {}, "Nothing found"), why));
  } else if (part.groups) {
    $("hits").replaceChildren(...part.groups.map((group) => {
      const tiles = group.items.map((id) => tile(itemOf.get(id)));
      const name = group.label === null ? "no label" : group.label_name;
      const title = element("h3", {}, element("bdi", {}, name), element("small", {}, `${plural(tiles.length, "result")}, best ${shownScore(itemOf.get(group.items[0]))}`));
      return element("section", { className: "group" }, title, element("ul", { className: "grid" }, ...tiles));
    }));
  } else $("hits").replaceChildren(element("ul", { className: "grid" }, ...hits.map(tile)));
  // What had the focus may be gone with the answers of before.
  if (document.activeElement === document.body) $("results").focus({ preventScroll: true });
  const first = hits.length ? `: the best is ${hits[0].label_name ?? "without a label"}, ${hits[0].score.toFixed(2)}` : "";
  say(`${$("verdict").hidden ? "" : "Unknown. "}${$("summary").textContent}${first}`);
  document.title = query.kind === "text" ? `${query.text} – ${stats.name}` : `${$("summary").textContent} – ${stats.name}`;
}

function tool(hit, kind, name, act) {
  return element("button", { type: "button", className: kind, ariaLabel: `${name}: ${title(hit)}`, title: name, onclick: act, ...(kind === "open" ? {} : { ariaPressed: "false" }) }, icon(kind));
}

// P(same) where the index has a decision, else the cosine.
const shownScore = (hit) => (hit.same === null || hit.same === undefined ? hit.score.toFixed(3) : percent(hit.same));
const title = (hit) => (hit.label === null ? hit.name : hit.label_name);

function tile(hit) {
  const picture = element("button", { type: "button", className: "picture", ariaLabel: `${title(hit)}${hit.score === undefined ? "" : `, score ${hit.score.toFixed(2)}`}: find similar`, onclick: () => searchItem(hit.id) });
  if (hit.kind === "text") picture.append(element("span", { className: "gone" }, hit.name));
  else {
    const image = element("img", { alt: "", loading: "lazy", decoding: "async" });
    image.onerror = () => picture.replaceChildren(element("span", { className: "gone" }, "picture is gone"));
    showImage(image, imageAddress(hit.id));
    picture.append(image);
  }
  const name = element("bdi", { title: hit.label === null ? hit.name : `${hit.label_name} (${hit.name})` }, hit.label === null ? "no label" : hit.label_name);
  if (hit.label === null) name.className = "none";
  const made = element("li", { className: "tile", data: { id: hit.id } }, picture);
  if (hit.score === undefined) {
    made.append(element("div", { className: "caption" }, name));
    return made;
  }
  const share = hit.same ?? Math.max(0, hit.score);
  const bar = element("i");
  bar.style.width = `${100 * Math.min(1, share)}%`;
  made.append(
    element("div", { className: "caption" }, name, element("span", { className: "score", title: `cosine ${hit.score}` }, shownScore(hit))),
    element("div", { className: "meter", ariaHidden: "true" }, bar),
  );
  made.classList.toggle("other", hit.is_same === false);
  const tools = element("div", { className: "tools" });
  if (stats && !stats.read_only) tools.append(
    tool(hit, "right", "Right", () => judge(hit, true)),
    tool(hit, "wrong", "Wrong", () => judge(hit, false)),
    tool(hit, "mark", "Mark", () => mark(hit.id)),
  );
  tools.append(tool(hit, "open", "Open", () => openDetail(hit)));
  made.append(tools);
  showVerdict(made, hit);
  return made;
}

const tileOf = (id) => document.querySelector(`#hits .tile[data-id="${id}"]`);

function showVerdict(made, hit) {
  const verdict = verdicts.get(verdictKey(hit.id));
  const states = { right: verdict?.same === true, wrong: verdict?.same === false, mark: marked.has(hit.id) };
  for (const [kind, isOn] of Object.entries(states)) {
    made.classList.toggle(kind === "mark" ? "marked" : kind, isOn);
    made.querySelector(`.tools .${kind}`)?.setAttribute("aria-pressed", String(isOn));
  }
}

// ---- Clicks that are kept.

function sourcesNow() { return answer.queries[Math.min(shown, answer.queries.length - 1)].query; }
function verdictKey(id) { return answer ? `${JSON.stringify(sourcesNow())}|${id}` : ""; }

async function judge(hit, same) {
  const key = verdictKey(hit.id);
  const before = verdicts.get(key);
  try {
    if (before) await takeBack(before.times);
    verdicts.delete(key);
    // The same click once more takes it back.
    if (before?.same === same) notify("Taken back.");
    else {
      const times = await noteDown(sourcesNow(), [hit.id], same);
      verdicts.set(key, { same, times });
      notify(`Noted: ${title(hit)} is ${same ? "right" : "wrong"}.`, async () => {
        await takeBack(times);
        verdicts.delete(key);
        refreshTiles();
      });
    }
  } catch (error) { notify(error.message); }
  refreshTiles();
}

async function noteDown(sources, items, same) {
  const content = { query: sources, items, same };
  try {
    return (await postJson("api/feedback", content)).times;
  } catch (error) {
    if (error.status !== 410 || !["images", "sound"].includes(query.kind)) throw error;
    // The server remembers the last files only: they are sent again.
    let files = [query.file];
    if (query.kind === "images") files = query.combine === "mean" ? query.files : [query.files[shown]];
    content.query = await Promise.all(sources.map(async (source, number) => ({ content: await base64(files[number]), box: source.box ?? null })));
    return (await postJson("api/feedback", content)).times;
  }
}

async function takeBack(times) {
  for (const time of times) await askJson(`api/feedback/${encodeURIComponent(time)}`, { method: "DELETE" });
}

function mark(id) {
  if (!marked.delete(id)) marked.add(id);
  showMarked();
  refreshTiles();
  say(`${plural(marked.size, "result")} marked`);
}

function showMarked() {
  $("marked").hidden = !marked.size;
  $("marked-count").textContent = `${marked.size} marked`;
  $("same").disabled = marked.size < 2;
}

$("unmark").onclick = () => { marked.clear(); showMarked(); refreshTiles(); };
$("same").onclick = async () => {
  const items = [...marked];
  try {
    const times = await noteDown(null, items, true);
    marked.clear();
    showMarked();
    notify(`Noted: ${items.length} items are the same.`, () => takeBack(times));
  } catch (error) { notify(error.message); }
  refreshTiles();
};

function refreshTiles() {
  for (const made of document.querySelectorAll("#hits .tile[data-id]")) {
    const hit = itemOf.get(Number(made.dataset.id));
    if (hit) showVerdict(made, hit);
  }
}

let toastTimer = 0;

function notify(sentence, undo = null) {
  lastClick = undo;
  $("toast").firstElementChild.textContent = sentence;
  $("undo").hidden = !undo;
  $("toast").hidden = false;
  say(sentence);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, undo ? 8000 : 4000);
}

async function undo() {
  if (!lastClick) return;
  const act = lastClick;
  lastClick = null;
  try { await act(); notify("Taken back."); } catch (error) { notify(error.message); }
}
$("undo").onclick = undo;

// ---- One item.

let opened = null;

function openDetail(hit) {
  opened = hit;
  $("detail-label").textContent = title(hit);
  $("detail-image").alt = `Picture of ${title(hit)}`;
  $("detail-image").removeAttribute("src");
  showImage($("detail-image"), imageAddress(hit.id, "full"), true);
  $("detail-sound").hidden = hit.kind !== "audio";
  $("detail-sound").removeAttribute("src");
  if (hit.kind === "audio") showSound($("detail-sound"), `api/items/${hit.id}/sound`);
  const facts = { score: hit.score, "P(same)": hit.same === null || hit.same === undefined ? null : percent(hit.same), label: hit.label, category: hit.category, file: hit.name, box: hit.box && hit.box.join(", "), id: hit.id };
  $("detail-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, String(value))))));
  $("detail-delete").hidden = !stats || stats.read_only;
  sure = false;
  $("detail-delete").textContent = "Delete from the index";
  $("detail").showModal();
}

let sure = false;
$("detail-similar").onclick = () => { $("detail").close(); searchItem(opened.id); };
$("detail-delete").onclick = async () => {
  if (!sure) {
    sure = true;
    $("detail-delete").textContent = "Really delete?";
    return;
  }
  try {
    await askJson(`api/items/${opened.id}`, { method: "DELETE" });
    $("detail").close();
    notify(`Deleted: ${title(opened)}.`);
    loadStats();
    if (query && !(query.kind === "item" && query.item === opened.id)) search();
  } catch (error) { notify(error.message); }
};

// ---- A picture that is added.

$("keep").onclick = () => {
  $("new-label").value = "";
  $("new-category").value = "";
  $("adding").showModal();
};
$("adding-cancel").onclick = () => $("adding").close();
$("adding-form").onsubmit = async () => {
  const words = new URLSearchParams();
  if ($("new-label").value.trim()) words.set("label", $("new-label").value.trim());
  if ($("new-category").value.trim()) words.set("category", $("new-category").value.trim());
  try {
    const item = await postFile(`api/items?${words}`, query.kind === "sound" ? query.file : query.files[shown]);
    const undoAdding = async () => { await askJson(`api/items/${item.id}`, { method: "DELETE" }); loadStats(); search(); };
    notify(item.is_new ? "Added to the index." : "It is in the index already.", item.is_new ? undoAdding : null);
    loadStats();
    search();
  } catch (error) { notify(error.message); }
};

// ---- The camera.

let stream = null;

async function openCamera() {
  const isPhone = matchMedia("(pointer: coarse)").matches;
  if (isPhone || !navigator.mediaDevices?.getUserMedia) return $("shot").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return notify("There is no camera here, or this page may not use it.");
  }
  $("video").srcObject = stream;
  $("lens").showModal();
}

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  $("video").srcObject = null;
  if ($("lens").open) $("lens").close();
}

$("camera").onclick = openCamera;
$("lens").addEventListener("close", closeCamera);
$("lens-cancel").onclick = closeCamera;
$("shutter").onclick = () => {
  const canvas = element("canvas", { width: $("video").videoWidth, height: $("video").videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob((blob) => { closeCamera(); if (blob) searchFiles([new File([blob], "camera.jpg", { type: "image/jpeg" })]); }, "image/jpeg", 0.95);
};

// ---- Ways in.

$("choose").onclick = $("drop").onclick = () => $("files").click();
for (const input of [$("files"), $("shot")]) input.onchange = () => { searchFiles(input.files); input.value = ""; };
$("home").onclick = () => { history.pushState(null, ""); begin(); $("drop").focus(); };
$("words").onsubmit = (event) => { event.preventDefault(); searchText($("text").value); };
$("again").onclick = () => { if (query) search(); else start(); };

let depth = 0;
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
const over = (isOver) => {
  document.body.classList.toggle("over", isOver);
  $("veil").hidden = !isOver || document.body.dataset.state === "empty";
};
addEventListener("dragenter", (event) => { if (hasFiles(event)) { depth += 1; over(true); event.preventDefault(); } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("dragleave", (event) => { if (hasFiles(event)) { depth = Math.max(0, depth - 1); if (!depth) over(false); } });
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  over(false);
  searchFiles(event.dataTransfer?.files ?? []);
});
addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  searchFiles(files);
});

const isTyping = () => ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName) || document.querySelector("dialog[open]");

addEventListener("keydown", (event) => {
  if (isTyping()) return;
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); return undo(); }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    if ($("words").hidden) $("choose").focus();
    else $("text").focus();
  } else if (event.key === "?") $("help").showModal();
  else onTile(event);
});
$("keys").onclick = () => $("help").showModal();

function onTile(event) {
  const made = document.activeElement?.closest(".tile[data-id]");
  if (!made) return;
  const id = Number(made.dataset.id);
  const hit = itemOf.get(id);
  const acts = { r: () => judge(hit, true), w: () => judge(hit, false), m: () => mark(id), o: () => openDetail(hit) };
  const act = acts[event.key.toLowerCase()];
  if (act && hit && made.closest("#hits") && !(stats.read_only && event.key.toLowerCase() !== "o")) {
    event.preventDefault();
    return act();
  }
  const tiles = [...document.querySelectorAll(".tile[data-id]")].filter((one) => one.offsetParent);
  const here = tiles.indexOf(made);
  let next = null;
  if (event.key === "ArrowRight") next = tiles[here + 1];
  else if (event.key === "ArrowLeft") next = tiles[here - 1];
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") next = nearestRow(tiles, made, event.key === "ArrowDown");
  if (next) {
    event.preventDefault();
    next.querySelector(".picture").focus();
  }
}

// The tile of the next row that stands straight above or below.
function nearestRow(tiles, made, isDown) {
  const frame = made.getBoundingClientRect();
  const beyond = tiles.map((one) => [one, one.getBoundingClientRect()]).filter(([, box]) => (isDown ? box.top > frame.top + 4 : box.top < frame.top - 4));
  if (!beyond.length) return null;
  const rows = beyond.map(([, box]) => box.top);
  const row = isDown ? Math.min(...rows) : Math.max(...rows);
  const inRow = beyond.filter(([, box]) => Math.abs(box.top - row) < 4);
  inRow.sort(([, a], [, b]) => Math.abs(a.left - frame.left) - Math.abs(b.left - frame.left));
  return inRow[0][0];
}

for (const button of $("combine").children) button.onclick = () => {
  query.combine = button.dataset.value;
  showStrip();
  search();
};

// ---- Filters.

let labelTimer = 0;

function suggestLabels(input, list) {
  clearTimeout(labelTimer);
  labelTimer = setTimeout(async () => {
    try {
      const { labels } = await askJson(`api/labels?${new URLSearchParams({ like: input.value.trim() })}`);
      list.replaceChildren(...labels.map((one) => element("option", { value: one.label_name }, plural(one.items, stats.noun))));
    } catch { /* only a suggestion */ }
  }, 150);
}

$("label").oninput = () => suggestLabels($("label"), $("labels"));
$("label").onfocus = () => suggestLabels($("label"), $("labels"));
$("new-label").oninput = () => suggestLabels($("new-label"), $("new-labels"));
for (const id of ["label", "category", "k", "diversity", "group"]) $(id).addEventListener("change", () => { if (query) search(); });
$("filters").onsubmit = (event) => { event.preventDefault(); if (query) search(); };

// ---- The beginning.

function showError(error) {
  $("hits").setAttribute("aria-busy", "false");
  if (query) {
    $("hits").replaceChildren();
    $("summary").textContent = "No answer";
    $("took").textContent = "";
    $("hits").before($("error"));
  } else document.querySelector("main").prepend($("error"));
  $("error").firstElementChild.textContent = error.message || "Something went wrong.";
  $("again").hidden = error.status === 413 || error.status === 415;
  $("error").hidden = false;
}

async function loadStats() {
  stats = await askJson("api/stats");
  $("name").textContent = stats.name;
  $("counts").textContent = `${plural(stats.items, stats.noun)} · ${plural(stats.labels, "label")}`;
  $("words").hidden = !stats.takes.includes("text");
  const takesImages = stats.takes.includes("image");
  $("camera").hidden = !takesImages;
  $("choose").hidden = $("drop").hidden = !takesImages && !takesSounds();
  if (takesSounds()) showForSounds();
  $("category-field").hidden = $("new-category-field").hidden = !stats.categories.length;
  const chosen = $("category").value;
  $("category").replaceChildren(element("option", { value: "" }, "any category"), ...stats.categories.map((one) => element("option", { value: String(one.category) }, `${one.category} (${one.items.toLocaleString("en")})`)));
  $("category").value = chosen;
  if (!query) document.title = stats.name;
}

// One sound at a time, where pictures may be several.
function showForSounds() {
  $("files").accept = "audio/*,.wav,.flac,.ogg";
  $("files").multiple = false;
  $("files").setAttribute("aria-label", "A sound to look for");
  $("choose-words").textContent = "Choose a sound";
  for (const word of document.querySelectorAll(".medium")) word.textContent = "sound";
  for (const words of document.querySelectorAll(".several")) words.hidden = true;
}

let seed = 1;

async function loadSamples() {
  const { items } = await askJson(`api/items?${new URLSearchParams({ count: 24, seed })}`);
  $("samples").replaceChildren(...items.map(tile));
  for (const part of ["samples-title", "shuffle"]) $(part).hidden = !items.length;
}

$("shuffle").onclick = async () => { seed += 1; try { await loadSamples(); } catch (error) { notify(error.message); } };

async function start() {
  $("error").hidden = true;
  try {
    await loadStats();
    await loadSamples();
  } catch (error) { showError(error); }
}

history.replaceState(null, "");
start();
