
// ---- Header and summary

const header = () => {
  document.title = data.title;
  at("title").append(bdi(data.title));
  at("facts").append(...data.facts.map(([key, value]) => term(bdi(key), bdi(value))));
  const total = data.kinds.reduce((sum, kind) => sum + kind.total, 0);
  at("lead").append(
    total ? "Each finding is a line of " : "Nothing was found; ", make("code", {}, bdi(data.fixes)),
    total ? ", whose column action says what is to be done with its row. Edit it, and have the list made of it:"
      : " has no line.");
  if (total) at("lead").after(make("pre", {}, make("code", {}, bdi(data.command))));
  at("kinds").append(...data.kinds.map((kind) => make("li", {}, kind.total
    ? make("a", { href: `#${kind.id}` }, make("strong", {}, whole(kind.total)), make("span", {}, kind.name))
    : make("div", { class: "none" }, make("strong", {}, "0"), make("span", {}, kind.name)))));
  at("notes").append(...data.notes.map((note) => make("li", {}, bdi(note))));
};

// ---- Findings

const shown = (item) => {
  if (item.text !== undefined) return make("div", { class: "text" }, bdi(item.text));
  const player = item.sound ? make("audio", { controls: "", src: item.sound }) : null;
  return [make("img", { src: item.image, alt: `label ${item.label}` }), player];
};
const figure = (number, role) => {
  if (number === null) return make("figure", {}, make("div", { class: "nothing" }, "no picture"));
  const item = data.items[number];
  return make("figure", {}, ...[shown(item)].flat(),
    make("figcaption", {}, role ? make("span", { class: "role" }, role) : null,
      make("strong", {}, ...heading(item.label)), item.text === undefined ? path(item.file) : null));
};
const actionClass = (action) => (action === "remove" ? "remove" : action === "keep" ? "" : "change");
const finding = (found) => {
  const level = make("i");
  level.style.width = `${Math.round(100 * found.confidence)}%`;
  const confidence = percent(found.confidence, 0);
  const meter = make("span", { class: "meter", role: "img", "aria-label": `confidence ${confidence} per cent` }, level);
  const sure = make("span", { class: "sure" }, `row ${found.row}`, meter, `${confidence} %`);
  const action = make("span", { class: `action ${actionClass(found.action)}`, title: found.action }, bdi(found.action));
  const alone = found.other === null && found.peer === null;
  const figures = [figure(found.item, found.peer === null ? "" : "this row")];
  if (found.peer !== null) figures.push(figure(found.peer, "its label"));
  if (found.other !== null) figures.push(figure(found.other, found.peer === null ? "" : "closest"));
  const caption = found.item === null ? `${found.path}: ` : "";
  return make("div", { class: `finding of-${alone ? 0 : figures.length}` },
    make("div", { class: "top" }, sure, action), ...figures,
    make("p", { class: "evidence" }, caption ? path(caption) : null, bdi(found.evidence)));
};
const section = (kind) => {
  const more = kind.findings.length < kind.total
    ? ` The surest ${whole(kind.findings.length)} of ${whole(kind.total)} are shown.` : "";
  return make("section", { id: kind.id },
    make("h2", {}, kind.title), make("p", { class: "lead" }, kind.meaning + more),
    make("div", { class: "findings" }, ...kind.findings.map(finding)));
};

header();
at("sections").append(...data.kinds.filter((kind) => kind.total).map(section));
