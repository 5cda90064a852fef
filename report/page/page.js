
// ---- The card that shows an image large. item: label, file, and more (nodes) between them.

const tip = at("tip");
const showTip = (image, [left, top, side], item, x, y) => {
  const canvas = at("tip-image"), brush = canvas.getContext("2d");
  canvas.width = canvas.height = 146 * Math.ceil(devicePixelRatio);
  canvas.hidden = !image.naturalWidth;
  brush.imageSmoothingQuality = "high";
  const edge = side / 200, inner = side - 2 * edge;  // a hair less, so that nothing of a neighbouring tile comes in
  if (image.naturalWidth) {
    brush.drawImage(image, left + edge, top + edge, inner, inner, 0, 0, canvas.width, canvas.width);
  }
  at("tip-label").replaceChildren(...heading(item.label));
  at("tip-more").replaceChildren(...item.more);
  at("tip-file").replaceChildren(item.text === undefined ? path(item.file) : bdi(item.text));
  tip.hidden = false;
  const right = x + 18 + tip.offsetWidth < innerWidth ? x + 18 : x - 18 - tip.offsetWidth;
  const below = Math.min(y + 18, innerHeight - tip.offsetHeight - 8);
  tip.style.transform = `translate(${Math.max(8, right)}px, ${Math.max(8, below)}px)`;
};
const hideTip = () => { tip.hidden = true; };
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
addEventListener("scroll", hideTip, { passive: true });

// ---- Header and figures

const header = () => {
  const { queries, lone_queries: lone } = data.counts;
  document.title = data.title;
  at("title").append(bdi(data.title));
  at("facts").append(...data.facts.map(([key, value]) => term(bdi(key), bdi(value))));
  at("facts").after(...data.notices.map((notice) => make("p", { class: "notice" }, bdi(notice))));
  at("counts").append(
    `Means over ${count(queries, "query", "queries")}, in per cent.` +
      (lone ? ` ${count(lone, "query has", "queries have")} nothing right to find.` : ""));
  at("metrics").append(...data.metrics.map((metric) => make("div", { class: "metric" },
    make("h3", {}, bdi(metric.name)),
    make("p", { class: "value" }, percent(metric.value), make("small", {}, "%")),
    make("p", {}, metric.meaning))));
};

// ---- Categories

const categories = () => {
  const { metric, rows, total, mean } = data.categories;
  const all = count(total, "category", "categories");
  at("bars-lead").append(
    `${metric} of ${rows.length < total ? `the lowest ${rows.length} of ${all}` : all}, lowest first. ` +
      `The line marks the mean over all queries, ${percent(mean, 1)}.`);
  at("bars").append(...rows.map(([category, value, size]) => {
    const bar = make("div", { class: "bar" }), line = make("div", { class: "mean" });
    bar.style.width = `${100 * value}%`;
    line.style.left = `${100 * mean}%`;
    return make("li", {},
      make("span", { class: "name", title: category }, bdi(category)),
      make("div", { class: "track" }, bar, line),
      make("span", { class: "share" }, percent(value, 1)),
      make("span", { class: "size" }, whole(size), make("span", {}, size === 1 ? " query" : " queries")));
  }));
};

// ---- Queries

const MARKS = { right: "M4.2 8.4 7 11.2 11.8 5.2", wrong: "M5 5 11 11M11 5 5 11" };
const SAID = { query: "query", right: "right", wrong: "wrong", missed: "right, but not among the items shown" };

const picture = (item, said) => item.text !== undefined
  ? make("div", { class: "text", role: "img", "aria-label": `${said}label ${item.label}, ${item.text}` }, bdi(item.text))
  : make("img", { src: item.image, alt: `${said}label ${item.label}, ${item.file}`, width: 112, height: 112 });
// A sound is heard below its picture.
const player = (item) => item.sound === undefined
  ? null
  : make("audio", { controls: "", controlslist: "nodownload noplaybackrate", preload: "none", src: item.sound,
    "aria-label": `label ${item.label}, ${item.file}` });
// Pictures of which there is another, with where the network looked: [image, how it is, where it looked].
const looked = [];
const tile = (place, kind, score = null, look = null) => {
  const item = data.items[place], image = picture(item, `${SAID[kind]}: `);
  if (look !== null) looked.push([image, item.image, data.looks[look]]);
  const said = score === null ? SAID[kind] : `${SAID[kind]}, score ${decimal(score, 3)}`;
  const mark = kind in MARKS
    ? draw("svg", { class: "mark", viewBox: "0 0 16 16", "aria-hidden": "true" }, draw("path", { d: MARKS[kind] }))
    : null;
  const caption = () => make("figcaption", {},
    make("span", { class: "score" }, decimal(score, 3)), make("span", { class: "label" }, bdi(item.label)));
  const figure = make("figure", { class: `tile ${kind}`, tabindex: -1 },
    make("div", { class: "frame" }, image, mark), player(item), score === null ? null : caption());
  const show = () => {
    const box = figure.getBoundingClientRect();
    const more = [item.category, said].filter((text) => text !== null).map((text) => make("span", {}, bdi(text)));
    showTip(image, [0, 0, image.naturalWidth], { ...item, more }, box.right - 24, box.bottom - 40);
  };
  figure.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show());
  figure.addEventListener("pointerleave", hideTip);
  figure.addEventListener("focus", show);  // which a tap gives it
  figure.addEventListener("blur", hideTip);
  return figure;
};
const row = (query) => {
  const item = data.items[query.item], hidden = query.missed_total - query.missed.length;
  const [own, best] = query.looks ?? [null, null];
  const found = query.found.map(([place, score, right], i) =>
    tile(place, right ? "right" : "wrong", score, i === 0 ? best : null));
  const missed = query.missed.map(([place, score]) => tile(place, "missed", score));
  return make("div", { class: "row" },
    make("div", { class: "asked" },
      tile(query.item, "query", null, own),
      make("div", { class: "about" },
        make("strong", {}, ...heading(item.label)),
        `${data.queries.metric} ${percent(query.value, 1)} %`, make("br"),
        query.positives ? `${whole(query.positives)} to find` : "nothing to find")),
    make("div", { class: "answers" },
      found.length ? make("div", { class: "tiles" }, ...found) : make("p", { class: "empty" }, "Found nothing."),
      missed.length
        ? make("div", { class: "tiles missed" }, ...missed,
          hidden ? make("p", { class: "empty" }, `+${whole(hidden)}`) : null)
        : null));
};
const queries = () => {
  const { kinds, metric } = data.queries;
  at("queries-lead").append(
    "What a query found, nearest first, and in grey the closest items of its label that are not among these. The " +
      `number below an item is its ${data.score} with the query. Worst and best go by ${metric}, one query a label; ` +
      "of equally bad ones, those that were surest of a wrong item come first.");
  if (data.looks.length) {
    at("queries-lead").append(
      ` Where the network looked, in a query and in its best hit, is told by ${data.look_method}: in red most.`);
  }
  const none = () => make("p", { class: "empty" }, "No query has anything right to find.");
  const panels = kinds.map(([kind, chosen]) => make("div", { class: "panel" },
    make("h3", {}, `${kind} queries`), chosen.length ? make("div", {}, ...chosen.map(row)) : none()));
  const show = (chosen) => panels.forEach((panel, i) => { panel.hidden = i !== chosen; });
  at("panels").append(...panels);
  choose(at("kinds"), kinds.map(([kind]) => kind), show);
  choose(at("looks"), looked.length ? ["Images", "Where it looked"] : [], (chosen) =>
    looked.forEach(([image, ...sources]) => { image.src = sources[chosen]; }));
};

// ---- Scores of pairs

const plot = ({ edges, densities, best }, width) => {
  const height = width < 560 ? 240 : 320, floor = height - 28, low = edges[0], high = edges.at(-1);
  const most = Math.max(...densities.flat());
  const x = (score) => ((score - low) / (high - low)) * (width - 2) + 1;
  const y = (density) => floor - (density / most) * (floor - 36);
  const area = (kind, values) => {
    const steps = values.map((value, i) => `V${y(value)}H${x(edges[i + 1])}`).join("");
    return draw("path", { class: kind, d: `M${x(low)} ${floor}${steps}V${floor}Z` });
  };
  const parts = [area("negative", densities[1]), area("positive", densities[0]),
    draw("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor })];
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find((one) => (high - low) / one <= width / 60)
    ?? (high - low) / 4;
  for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) {
    const place = x(tick * step), anchor = place < 16 ? "start" : place > width - 16 ? "end" : "middle";
    const text = decimal(tick * step, step < 0.1 ? 2 : 1);
    parts.push(draw("text", { x: place, y: floor + 19, "text-anchor": anchor }, text));
  }
  if (best) {
    const line = x(best.threshold), [side, anchor] = line > width / 2 ? [-8, "end"] : [8, "start"];
    parts.push(
      draw("line", { class: "threshold", x1: line, x2: line, y1: 8, y2: floor }),
      draw("text", { class: "threshold", x: line + side, y: 18, "text-anchor": anchor },
        `best F1 at ${decimal(best.threshold, 3)}`));
  }
  const said = `Densities of positive and negative pairs over scores from ${decimal(low)} to ${decimal(high)}`;
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said }, ...parts);
};
const scores = () => {
  const { pairs, best } = data.histogram, box = at("histogram");
  at("scores-lead").append(
    `Which ${data.score} pairs have. Both areas are of one size, though there are ` +
      `${count(pairs[0], "positive pair")} and ${count(pairs[1], "negative one")}; the less they overlap, the better ` +
      "the score tells right from wrong.");
  new ResizeObserver(() => box.replaceChildren(plot(data.histogram, Math.max(240, box.clientWidth)))).observe(box);
  at("best").hidden = !best;
  if (best) {
    at("best").append(term("Threshold", decimal(best.threshold, 3)), term("F1", `${percent(best.f1)} %`),
      term("Precision", `${percent(best.precision)} %`), term("Recall", `${percent(best.recall)} %`));
  }
  at("best-note").append(best
    ? "To call two items alike, take the threshold on their score with the best F1 over all pairs. It was chosen on " +
      "these very pairs, so its figures are the best that any threshold reaches here; on other data expect less."
    : "No two items have the same label, so there is no positive pair and no threshold.");
};

// ---- Same or not

// A rate in per cent with its interval, if it has one.
const rate = ({ value, interval }, digits = 2) => [percent(value, digits),
  interval && make("small", {}, `${percent(interval[0], digits)} – ${percent(interval[1], digits)}`)];
const rates = (heads, rows) => make("table", { class: "rates" },
  make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {},
    ...cells.map((cell) => make("td", {}, ...[cell].flat().filter((part) => part !== null)))))));
const cut = (point) => decimal(point.cosine ?? point.squared_distance, point.cosine === undefined ? 3 : 4);

// How often what was said with a probability came true, beside the diagonal on which it would always do so.
const reliability = ({ predicted, observed, pairs }) => {
  const side = 300, left = 36, x = (share) => left + share * side, y = (share) => 8 + (1 - share) * side;
  const most = Math.log(Math.max(...pairs) + 1);
  // A handful of pairs says little: such points are drawn, and no line leads to them.
  const told = predicted.map((_, i) => i).filter((i) => pairs[i] >= 30);
  const parts = [draw("path", { class: "axis", d: `M${x(0)} ${y(1)}V${y(0)}H${x(1)}` }),
    draw("line", { class: "ideal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    draw("path", { class: "found", d: `M${told.map((i) => `${x(predicted[i])} ${y(observed[i])}`).join("L")}` })];
  predicted.forEach((share, i) => parts.push(draw("circle",
    { cx: x(share), cy: y(observed[i]), r: 2 + (4 * Math.log(pairs[i] + 1)) / most },
    draw("title", {}, `said ${percent(share, 1)} %, true of ${percent(observed[i], 1)} % of ${count(pairs[i], "pair")}`))));
  for (const share of [0, 0.5, 1]) {
    parts.push(draw("text", { x: x(share), y: y(0) + 18, "text-anchor": "middle" }, decimal(share, 1)),
      draw("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, decimal(share, 1)));
  }
  const said = "Of the pairs that are the same with some probability, the share that is";
  return draw("svg", { viewBox: `0 0 ${left + side + 16} ${side + 34}`, role: "img", "aria-label": said }, ...parts);
};

const verification = () => {
  const { pairs, tar_at_far: points, eer, intervals, threshold_on: chosen, calibration, folds } = data.verification;
  const name = "cosine" in eer ? "Cosine" : "Squared distance";
  at("verification-lead").append(`Over ${pairs.of}: ${count(pairs.positive, "pair")} of one label, ` +
    `${whole(pairs.negative)} of two. A pair is called the same from a ${name.toLowerCase()} on: FAR is the share of ` +
    "pairs of two labels that are, TAR that of pairs of one.");
  if (chosen) {
    at("rates").append(rates(["FAR wished", name, "TAR there, %", "FAR here, %", "TAR here, %"],
      chosen.thresholds.map((row) => [String(row.far), cut(row), percent(row.chosen.tar),
        rate(row.measured.far, 4), rate(row.measured.tar)])));
  } else {
    at("rates").append(rates(["FAR", name, "TAR, %"],
      points.map((point) => [String(point.far), cut(point), rate(point.tar)])));
  }
  at("verification-numbers").append(term("EER", `${percent(eer.value)} %`), term(`${name} there`, cut(eer)));
  if (folds) {
    at("verification-numbers").append(term(`Accuracy over ${count(Object.keys(folds.of_folds).length, "fold")}`,
      `${percent(folds.accuracy)} ± ${percent(folds.standard_error)} %`));
  }
  at("verification-note").append(
    ...(chosen ? ["Thresholds were chosen on ", bdi(chosen.list), ", and are judged here on other labels. "] : []),
    intervals.resamples ? "Beside a rate stands where 95 % of it lie over drawings of the labels." : "");
  at("calibration").hidden = !calibration;
  if (calibration) {
    at("reliability").append(reliability(calibration));
    at("reliability-note").append(
      "Across: the probability that two items are the same, as calibrated on the list that thresholds were chosen on. " +
      `Upwards: how many of such pairs here are. Brier ${calibration.brier.toPrecision(3)}, calibration error (ECE) ` +
      `${calibration.ece.toPrecision(3)}.`);
  }
};

// ---- Look-alikes. said: the sentence before how close they are, and the one after.

const lookalikes = (id, said) => () => {
  const { pairs, total, floor } = data[id], [lead, list] = at(id).querySelectorAll(".lead, .pairs");
  const closer = floor === null ? "" : ` that are closer than the median positive pair (score ${decimal(floor, 3)})`;
  const shown = pairs.length < total ? `: the closest ${pairs.length} of ${whole(total)}` : "";
  const one = (place) => {
    const item = data.items[place];
    const caption = make("figcaption", {}, make("strong", {}, ...heading(item.label)), path(item.file));
    return make("figure", {}, picture(item, ""), player(item), caption);
  };
  lead.append(...said[0], `${closer}${shown}. `, said[1]);
  list.append(...pairs.map(([left, right, score], i) => make("div", { class: "pair" },
    make("p", { class: "score" }, make("span", {}, "score ", make("b", {}, decimal(score, 3))), `${i + 1}`),
    one(left), one(right))));
  if (!pairs.length) list.replaceWith(make("p", { class: "empty" }, "None."));
};

// ---- The sections that there is something to say in

const sections = {
  categories: data.categories && categories,
  queries,
  scores: data.histogram && scores,
  verification: data.verification && verification,
  label_pairs: data.label_pairs && lookalikes("label_pairs", [["Items of different labels, any two labels once,"],
    "Some will be mistakes of the model, some wrong labels, some two labels for one thing."]),
  leaks: data.leaks && lookalikes("leaks",
    [["Items of ", bdi(data.lists[0]), " (left) and their nearest in ", bdi(data.lists[1]), " (right)"],
      "An image that stands in both lists makes the figures look better than they are."]),
};
header();
for (const [id, build] of Object.entries(sections)) {
  at(id).hidden = !build;
  if (build) build();
}
at("contents").append(...[...document.querySelectorAll("main > section:not([hidden])")]
  .map((section) => make("a", { href: `#${section.id}` }, section.dataset.name)));
