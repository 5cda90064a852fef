
// ---- The map: points on a canvas, which become images when few of them are in sight.

const { x: xs, y: ys, labels, codes, files, side, columns, colourings, method, total } = data.map;
const canvas = at("canvas"), brush = canvas.getContext("2d"), sheet = new Image();
const PAD = 28, REACH = 16, PORTRAIT = 44, MOST_LINES = 60;
const spanX = Math.max(1, ...xs), spanY = Math.max(1, ...ys);
const view = { zoom: 1, x: 0, y: 0 };
let colouring = 0, highlighted = null, current = null, hues = [], width = 0, height = 0;

const place = (i) => {
  const unit = Math.min((width - 2 * PAD) / spanX, (height - 2 * PAD) / spanY) * view.zoom;
  return [width / 2 + (xs[i] - spanX / 2) * unit + view.x, height / 2 - (ys[i] - spanY / 2) * unit + view.y];
};
const nearest = (x, y, reach) => {
  let best = null, least = reach * reach;
  xs.forEach((_, i) => {
    const [left, top] = place(i), distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least) [best, least] = [i, distance];
  });
  return best;
};
const hue = (one) => (typeof one === "number" ? `oklch(${colour("lightness")} 0.14 ${one})` : colour(one));
const dot = (code, x, y, radius) => {
  brush.beginPath();
  if (colourings[colouring].colours[code] === "wrong") {  // a cross, so that colour does not tell it alone
    brush.moveTo(x - radius, y - radius); brush.lineTo(x + radius, y + radius);
    brush.moveTo(x + radius, y - radius); brush.lineTo(x - radius, y + radius);
    brush.strokeStyle = hues[code]; brush.lineWidth = radius / 2; brush.stroke();
  } else {
    brush.arc(x, y, radius, 0, 2 * Math.PI); brush.fillStyle = hues[code]; brush.fill();
  }
};
const source = (i) => [side * (i % columns), side * Math.floor(i / columns)];
const portrait = (i, x, y, frame) => {
  const half = PORTRAIT / 2;
  brush.fillStyle = frame;
  brush.fillRect(x - half - 2, y - half - 2, PORTRAIT + 4, PORTRAIT + 4);
  brush.drawImage(sheet, ...source(i), side, side, x - half, y - half, PORTRAIT, PORTRAIT);
};
const render = () => {
  const group = colourings[colouring].codes, places = xs.map((_, i) => place(i)), sharp = devicePixelRatio;
  brush.setTransform(sharp, 0, 0, sharp, 0, 0);
  brush.clearRect(0, 0, width, height);
  const visible = places.map((_, i) => i).filter((i) => {
    const [x, y] = places[i];
    return x > -PAD && y > -PAD && x < width + PAD && y < height + PAD;
  });
  const large = visible.length * 2 * PORTRAIT ** 2 < width * height && sheet.naturalWidth > 0;
  const radius = Math.min(6, Math.max(2.6, 125 / Math.sqrt(visible.length + 1)));
  for (const i of visible) {
    brush.globalAlpha = highlighted === null || group[i] === highlighted ? (large ? 1 : 0.85) : 0.1;
    if (large) portrait(i, ...places[i], hues[group[i]]);
    else dot(group[i], ...places[i], radius);
  }
  brush.globalAlpha = 1;
  if (current === null) return;
  const siblings = places.map((_, i) => i).filter((i) => codes[i] === codes[current]);
  brush.strokeStyle = colour("ink");
  brush.lineWidth = 1;
  for (const i of siblings.length <= MOST_LINES ? siblings : []) {
    brush.beginPath(); brush.moveTo(...places[current]); brush.lineTo(...places[i]); brush.stroke();
  }
  for (const i of [...siblings, current]) {
    if (large) portrait(i, ...places[i], colour("ink"));
    else {
      dot(group[i], ...places[i], radius + 1.5);
      brush.lineWidth = i === current ? 2.5 : 1.25;
      brush.beginPath(); brush.arc(...places[i], radius + 2.5, 0, 2 * Math.PI); brush.stroke();
    }
  }
};
const point = (i) => {
  if (i === null) hideTip();
  if (i !== current) { current = i; render(); }
  if (i === null) return;
  const box = canvas.getBoundingClientRect(), [x, y] = place(i);
  const more = colourings.map(({ names, codes: groups }) => make("span", {}, bdi(names[groups[i]])));
  const item = { label: labels[i], file: files[i], more };
  showTip(sheet, [...source(i), side], item, box.left + x, box.top + y);
};
const zoom = (factor, x = width / 2, y = height / 2) => {
  const next = Math.min(60, Math.max(1, view.zoom * factor)), ratio = next / view.zoom;
  view.x = (x - width / 2) * (1 - ratio) + view.x * ratio;
  view.y = (y - height / 2) * (1 - ratio) + view.y * ratio;
  view.zoom = next;
  if (next === 1) view.x = view.y = 0;
  canvas.style.touchAction = next > 1 ? "none" : "pan-y";  // unzoomed, a finger scrolls the page
  hideTip();
  render();
};
const paint = () => {
  hues = colourings[colouring].colours.map(hue);
  const sizes = hues.map(() => 0);
  colourings[colouring].codes.forEach((code) => { sizes[code] += 1; });
  at("keys").replaceChildren(...colourings[colouring].names.flatMap((text, code) => {
    if (!sizes[code]) return [];
    const patch = make("i", colourings[colouring].colours[code] === "wrong" ? { class: "cross" } : {});
    patch.style.background = hues[code];
    const size = make("small", {}, whole(sizes[code]));
    const key = make("button", { type: "button", "aria-pressed": code === highlighted }, patch, bdi(text), size);
    key.addEventListener("click", () => { highlighted = highlighted === code ? null : code; paint(); });
    return [key];
  }));
  render();
};

let drag = null;
const spot = (event) => [event.offsetX, event.offsetY];
canvas.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return point(nearest(...spot(event), REACH));
  const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.moved && Math.hypot(x, y) < 5) return;
  drag = { x: event.clientX, y: event.clientY, moved: true };
  if (view.zoom > 1) { view.x += x; view.y += y; }
  hideTip();
  render();
});
canvas.addEventListener("pointerup", (event) => {
  if (drag && !drag.moved) point(nearest(...spot(event), 1.5 * REACH));
  drag = null;
});
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
canvas.addEventListener("blur", () => point(null));
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== canvas && !event.ctrlKey) return;  // else the wheel scrolls the page
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), ...spot(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  point(((current ?? (step > 0 ? -1 : 0)) + step + xs.length) % xs.length);
});
at("closer").addEventListener("click", () => zoom(1.6));
at("farther").addEventListener("click", () => zoom(1 / 1.6));
at("unzoomed").addEventListener("click", () => zoom(0));

const sample = `${count(xs.length, "item")} of ${whole(total)}, labels drawn at random`;
at("map-lead").append(`${xs.length < total ? sample : count(total, "item")}, in two dimensions. ${method}.`);
const said = "by their embeddings; the arrow keys go from item to item";
canvas.setAttribute("aria-label", `Map of ${count(xs.length, "item")} ${said}`);
choose(at("colourings"), colourings.map(({ title }) => title), (chosen) => {
  [colouring, highlighted] = [chosen, null];
  paint();
});
new ResizeObserver(() => {
  [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * devicePixelRatio, height * devicePixelRatio];
  render();
}).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
sheet.addEventListener("load", render);
sheet.src = data.map.sheet;
