/** Small helpers to build elements. Text only ever becomes text: nothing here parses HTML. */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [props] on* = listener; aria-*, data-*, role and the like = attribute; else property
 * @param {(Node | string | null | undefined)[]} [children] @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, props = {}, children = []) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on") && typeof value === "function")
      node.addEventListener(key.slice(2), /** @type {EventListener} */ (value));
    else if (key.includes("-") || key === "role" || key === "list" || key === "for")
      node.setAttribute(key, String(value));
    else Reflect.set(node, key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
/** 20 x 20 outlines, drawn for this editor. @type {Record<string, string>} */
const ICONS = {
  select: "M5 3l10 7-5 1-2 5z",
  rect: "M3 5h14v10H3z",
  ellipse: "M17 10a7 5 0 1 1-14 0a7 5 0 1 1 14 0z",
  polygon: "M10 3l7 5-3 9H6L3 8z",
  brush: "M16 3l-7 8 2 2 7-8zM8 12c-3 0-2 3-5 4 3 2 7 1 7-2z",
  eraser: "M11 4l6 5-7 7H6l-3-3zM7 8l6 5",
  hand: "M6 11V6m0 1V4m3 5V3m3 6V4m3 6V6v6c0 4-2 5-5 5s-4-1-7-6l1-1 2 2",
  undo: "M7 4L3 8l4 4M3 8h9a4 4 0 0 1 0 8H8",
  redo: "M13 4l4 4-4 4M17 8H8a4 4 0 0 0 0 8h4",
  plus: "M10 4v12M4 10h12",
  minus: "M4 10h12",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  more: "M5 10h.1M10 10h.1M15 10h.1",
  eye: "M2 10c4-7 12-7 16 0c-4 7-12 7-16 0zM12 10a2 2 0 1 1-4 0a2 2 0 1 1 4 0z",
  hidden: "M3 3l14 14M2 10c4-7 12-7 16 0M6 15c4 2 8 0 12-5",
  lock: "M5 9h10v8H5zM7 9V6a3 3 0 0 1 6 0v3",
  open: "M5 9h10v8H5zM7 9V6a3 3 0 0 1 6-1",
  copy: "M7 7h10v10H7zM13 7V3H3v10h4",
  trash: "M4 6h12M8 6V3h4v3M6 6l1 11h6l1-11M9 9v5M11 9v5",
  up: "M10 16V4M5 9l5-5 5 5",
  down: "M10 4v12M5 11l5 5 5-5",
  large: "M3 8V3h5M12 3h5v5M17 12v5h-5M8 17H3v-5M7 7l6 6M13 7l-6 6",
  warn: "M10 3l8 14H2zM10 8v4M10 14.5v.1",
};

/** @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "mos-icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? "");
  svg.append(path);
  return svg;
}

/** @param {string} name @param {string} label @param {() => void} run @param {Record<string, unknown>} [props] */
export function iconButton(name, label, run, props = {}) {
  return el(
    "button",
    { type: "button", className: "mos-button", title: label, "aria-label": label, onclick: run, ...props },
    [icon(name)],
  );
}

/** A small picture; nothing where there is none. @param {string | undefined} url */
export function thumbnail(url) {
  if (!url) return null;
  const picture = el("span", { className: "mos-thumb", "aria-hidden": "true" });
  picture.style.backgroundImage = `url("${url}")`;
  return picture;
}

/**
 * Sets a form field without moving the cursor of somebody who types in it.
 * @param {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} field @param {string} value
 */
export function setField(field, value) {
  if (field.value !== value && field !== document.activeElement) field.value = value;
}

/** @param {string} label @param {HTMLElement[]} inputs */
export const labelled = (label, ...inputs) =>
  el("label", { className: "mos-field" }, [el("span", { textContent: label }), ...inputs]);
