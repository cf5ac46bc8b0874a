// Elements without markup: text from outside only ever becomes text nodes and attributes.

const SVG = "http://www.w3.org/2000/svg";

function apply(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (name === "style") {
      // Through the CSSOM: the policy forbids style attributes.
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else if (name === "data") {
      for (const [key, setting] of Object.entries(value)) element.dataset[key] = setting;
    } else if (name === "value" || name === "checked" || name === "selected" || name === "indeterminate") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function split(selector) {
  const [tag, ...classes] = selector.split(".");
  return [tag || "div", classes.join(" ")];
}

/** An HTML element: `h("p.note", { title }, "text", child)`. Properties may be left out. */
export function h(selector, ...rest) {
  const [tag, classes] = split(selector);
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  const props = isProps(rest[0]) ? rest.shift() : undefined;
  if (props) apply(element, props);
  return append(element, rest);
}

/** The same for SVG. */
export function svg(selector, ...rest) {
  const [tag, classes] = split(selector);
  const element = document.createElementNS(SVG, tag);
  if (classes) element.setAttribute("class", classes);
  const props = isProps(rest[0]) ? rest.shift() : undefined;
  if (props) apply(element, props);
  return append(element, rest);
}

function isProps(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Node);
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/** Sets a text only when it changed, so that screen readers and selections are left alone. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Says something to screen readers, politely and at most once a second for one sentence. */
export function say(text) {
  const region = document.getElementById("say");
  if (region) setText(region, text);
}

/** Runs `act` every `ms` until `signal` aborts. */
export function every(ms, signal, act) {
  const timer = setInterval(act, ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Gathers calls into one: the first acts at once, those within the next `ms` act together at its end. */
export function calmly(act, ms = 200) {
  let last = -Infinity;
  let timer = 0;
  const run = () => {
    timer = 0;
    act();
    // From its end: work that takes long leaves the page time for its reader.
    last = performance.now();
  };
  return () => {
    // Not by frames: a hidden tab has none, and its state must go on all the same.
    timer ||= setTimeout(run, Math.max(0, last + ms - performance.now()));
  };
}
