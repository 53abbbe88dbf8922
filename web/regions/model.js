/** The region document: its parts and limits, pure edits, canonical writing. Reading is in read.js. */

/**
 * @typedef {{type: "rect" | "ellipse", x: number, y: number, width: number, height: number}} BoxShape
 * @typedef {{type: "polygon", points: [number, number][]}} PolygonShape
 * @typedef {{type: "mask", width: number, height: number, runs: number[]}} MaskShape
 * @typedef {{type: "input", index: number}} InputShape
 * @typedef {BoxShape | PolygonShape | MaskShape | InputShape} Shape
 * @typedef {Record<string, string | number | boolean>} Ui
 * @typedef {{id: string, name: string, shape: Shape, prompt: string, negative: string, concept: string,
 *   strength: number, feather: number, start: number, end: number, weight: number, control: number, ui: Ui,
 *   enabled: boolean}} Region  one that is not enabled is as if it had not been drawn
 * @typedef {{version: 1, width: number, height: number, regions: Region[], overlap: "average" | "priority",
 *   edges: "soft" | "paper", suffix: string, background: {concept: string, ui: Ui}}} Doc
 * @typedef {[key: string, values?: Record<string, string | number>]} Note
 */

export const VERSION = 1;
export const LIMITS = Object.freeze({
  bytes: 262144,
  regions: 64,
  points: 256,
  grid: 4096,
  minSide: 64,
  maxSide: 8192,
  text: 4000,
  name: 100,
  far: 4,
});
export const COLORS = Object.freeze([
  "#e69f00",
  "#56b4e9",
  "#2fbf8f",
  "#f0e442",
  "#5b8ff9",
  "#e8663c",
  "#d98cc4",
  "#a3a3b5",
]);
export const PATTERNS = Object.freeze(["diagonal", "dots", "back", "horizontal", "cross", "vertical", "grid", "plain"]);
/** Number fields of a region: [low, high, default]. */
export const NUMBERS = Object.freeze({
  strength: [0, 1, 1],
  feather: [0, 0.5, 0],
  start: [0, 1, 0],
  end: [0, 1, 1],
  weight: [0.01, 100, 1],
  control: [0, 10, 1],
});
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Six decimals are finer than any sample of the raster and keep the text short. @param {number} value */
export const round6 = (value) => Math.round(value * 1e6) / 1e6 + 0;

/** @param {number} value @param {number} low @param {number} high */
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Well-formed text of at most `limit` characters. @param {string} value @param {number} limit */
export function cleanText(value, limit) {
  const text = value.replace(LONE_SURROGATE, "\ufffd").replace(/\0/g, "");
  return text.length <= limit ? text : text.slice(0, limit).replace(LONE_SURROGATE, "");
}

/** Bytes of the text as the server counts them. @param {string} text */
export const byteLength = (text) => new TextEncoder().encode(text).length;

/** @param {number} width @param {number} height @returns {Doc} */
export function emptyDoc(width = 1024, height = 1024) {
  return {
    version: VERSION,
    width,
    height,
    regions: [],
    overlap: "average",
    edges: "soft",
    suffix: "",
    background: { concept: "", ui: {} },
  };
}

/** @param {Iterable<string>} taken @param {string} wanted */
export function freeName(taken, wanted) {
  const used = new Set([...taken].map((name) => name.toLowerCase()));
  if (!used.has(wanted.toLowerCase())) return wanted;
  const base = wanted.slice(0, LIMITS.name - 4).replace(/ \d+$/, "");
  for (let n = 2; ; n += 1) if (!used.has(`${base} ${n}`.toLowerCase())) return `${base} ${n}`;
}

/**
 * A new region with a free id, name, colour and pattern.
 * @param {Doc} doc @param {Shape} shape @param {Partial<Region>} [extra] @returns {Region}
 */
export function makeRegion(doc, shape, extra = {}) {
  const ids = new Set(doc.regions.map((region) => region.id));
  let number = 1;
  while (ids.has(`r${number}`)) number += 1;
  const counts = COLORS.map((color) => doc.regions.filter((region) => region.ui.color === color).length);
  const slot = counts.indexOf(Math.min(...counts));
  const ui = { color: COLORS[slot], pattern: PATTERNS[slot], ...(extra.ui ?? {}) };
  const name = freeName(
    doc.regions.map((region) => region.name),
    extra.name || `Region ${doc.regions.length + 1}`, // as its badge
  );
  return {
    prompt: "",
    negative: "",
    concept: "",
    strength: 1,
    feather: 0,
    start: 0,
    end: 1,
    weight: 1,
    control: 1,
    enabled: true,
    ...extra,
    id: `r${number}`,
    name,
    shape,
    ui,
  };
}

/**
 * A copy of the document with one region replaced.
 * @param {Doc} doc @param {string} id @param {Partial<Region>} change @returns {Doc}
 */
export function changeRegion(doc, id, change) {
  return { ...doc, regions: doc.regions.map((region) => (region.id === id ? { ...region, ...change } : region)) };
}

/**
 * A name nobody else has; empty falls back to the old one.
 * @param {Doc} doc @param {string} id @param {string} wanted
 */
export function renameRegion(doc, id, wanted) {
  const others = doc.regions.filter((region) => region.id !== id).map((region) => region.name);
  const name = cleanText(wanted.trim(), LIMITS.name);
  return name ? changeRegion(doc, id, { name: freeName(others, name) }) : doc;
}

/**
 * Moves a region in the stack: later lies on top.
 * @param {Doc} doc @param {string} id @param {number} by @returns {Doc}
 */
export function reorderRegion(doc, id, by) {
  return moveRegion(doc, id, doc.regions.findIndex((region) => region.id === id) + by);
}

/** @param {Doc} doc @param {string} id @param {number} place from 0, the lowest @returns {Doc} */
export function moveRegion(doc, id, place) {
  const from = doc.regions.findIndex((region) => region.id === id);
  const to = clamp(place, 0, doc.regions.length - 1);
  if (from < 0 || from === to) return doc;
  const regions = doc.regions.slice();
  regions.splice(to, 0, ...regions.splice(from, 1));
  return { ...doc, regions };
}

/** Canonical text: fixed field order, every field written, short numbers. @param {Doc} doc */
export function writeDoc(doc) {
  const { width, height, overlap, edges, suffix, background } = doc;
  const regions = doc.regions.map((region) => ({
    id: region.id,
    shape: writeShape(region.shape),
    name: region.name,
    prompt: region.prompt,
    negative: region.negative,
    concept: region.concept,
    strength: round6(region.strength),
    feather: round6(region.feather),
    start: round6(region.start),
    end: round6(region.end),
    weight: round6(region.weight),
    control: round6(region.control),
    ui: sortedUi(region.ui),
    enabled: region.enabled,
  }));
  return JSON.stringify({
    version: VERSION,
    width,
    height,
    regions,
    overlap,
    edges,
    suffix,
    background: { concept: background.concept, ui: sortedUi(background.ui) },
  });
}

/** @param {Ui} ui @returns {Ui} */
const sortedUi = (ui) => Object.fromEntries(Object.entries(ui).sort(([a], [b]) => (a < b ? -1 : 1)));

/** @param {Shape} shape @returns {Shape} */
function writeShape(shape) {
  if (shape.type === "polygon") {
    return {
      type: "polygon",
      points: shape.points.map(([x, y]) => /** @type {[number, number]} */ ([round6(x), round6(y)])),
    };
  }
  if (shape.type === "mask") return { type: "mask", width: shape.width, height: shape.height, runs: shape.runs };
  if (shape.type === "input") return { type: "input", index: shape.index };
  return {
    type: shape.type,
    x: round6(shape.x),
    y: round6(shape.y),
    width: round6(shape.width),
    height: round6(shape.height),
  };
}
