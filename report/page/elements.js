
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// ---- Making things. Texts become text nodes and nothing is parsed, so no name can turn into markup.

const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
// Names come from anywhere: a <bdi> keeps their writing direction to themselves.
const bdi = (text) => make("bdi", {}, text);
// A file's name, which may break after its folders.
const path = (text) => make("bdi", {}, ...text.split(/(?<=\/)/).flatMap((part) => [part, make("wbr")]));
const term = (key, value) => make("div", {}, make("dt", {}, key), make("dd", {}, value));

const whole = (number) => number.toLocaleString("en");
const count = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;
const decimal = (number, digits = 2) => number.toFixed(digits).replace("-", "−");
const percent = (share, digits = 2) => (share === null ? "–" : decimal(100 * share, digits));
const colour = (variable) => getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim();

// Buttons of which one is pressed; show(i) is called for the first, and then for whichever is clicked.
const choose = (group, names, show) => {
  const buttons = names.map((text) => make("button", { type: "button" }, text));
  const press = (chosen) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
    show(chosen);
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => press(i)));
  group.append(...buttons);
  group.hidden = names.length < 2;
  press(0);
};

// A label as a heading: a name speaks for itself, a number does not.
const heading = (label) => (/^-?[0-9]+$/.test(label) ? ["Label ", bdi(label)] : [bdi(label)]);
