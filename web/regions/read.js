/**
 * Reading a region document from untrusted text. It never throws: it keeps what it can and lists what it dropped. What
 * it returns always satisfies the strict rules of mixofshow_core/regional/schema.py; tests feed generated documents
 * through both sides.
 */

import {
  byteLength,
  cleanText,
  emptyDoc,
  freeName,
  LIMITS,
  makeRegion,
  NUMBERS,
  PATTERNS,
  round6,
  VERSION,
} from "./model.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./model.js").Region} Region
 * @typedef {import("./model.js").Shape} Shape
 * @typedef {import("./model.js").Ui} Ui
 * @typedef {import("./model.js").Note} Note
 */

const TEXTS = Object.freeze({ prompt: LIMITS.text, negative: LIMITS.text, concept: LIMITS.name });

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {unknown} value @returns {value is number} */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/**
 * Reads untrusted text. The notes say what was dropped or repaired; `sized` says that the text names its own size.
 * @param {unknown} text @param {{width: number, height: number}} size used where the text has none
 * @returns {{doc: Doc, notes: Note[], sized: boolean}}
 */
export function readDoc(text, size = { width: 1024, height: 1024 }) {
  const doc = emptyDoc(size.width, size.height);
  /** @type {Note[]} */
  const notes = [];
  let given = 0;
  const done = () => ({ doc, notes, sized: given === 2 });
  if (typeof text !== "string" || text.trim() === "") return done();
  if (text.length > LIMITS.bytes || byteLength(text) > LIMITS.bytes) {
    notes.push(["note.tooBig", { bytes: text.length, limit: LIMITS.bytes }]);
    return done();
  }
  /** @type {unknown} */
  let raw;
  try {
    raw = JSON.parse(text);
  } catch {
    notes.push(["note.notJson"]);
    return done();
  }
  if (!isObject(raw)) {
    notes.push(["note.notObject"]);
    return done();
  }
  const migrated = migrate(raw, notes);
  for (const name of /** @type {const} */ (["width", "height"])) {
    const value = migrated[name];
    if (Number.isInteger(value) && Number(value) >= LIMITS.minSide && Number(value) <= LIMITS.maxSide) {
      doc[name] = Number(value);
      given += 1;
    } else if (value !== undefined) notes.push(["note.field", { field: name }]);
  }
  if (migrated.overlap === "priority" || migrated.overlap === "average") doc.overlap = migrated.overlap;
  else if (migrated.overlap !== undefined) notes.push(["note.field", { field: "overlap" }]);
  if (migrated.edges === "paper" || migrated.edges === "soft") doc.edges = migrated.edges;
  else if (migrated.edges !== undefined) notes.push(["note.field", { field: "edges" }]);
  doc.suffix = readText(migrated.suffix, LIMITS.text, "suffix", notes);
  if (isObject(migrated.background)) {
    doc.background = {
      concept: readText(migrated.background.concept, LIMITS.name, "background", notes),
      ui: readUi(migrated.background.ui, notes, "background"),
    };
  } else if (migrated.background !== undefined) notes.push(["note.field", { field: "background" }]);
  readRegions(migrated.regions, doc, notes);
  const known = new Set(["version", "width", "height", "regions", "overlap", "edges", "suffix", "background"]);
  const extra = Object.keys(migrated).filter((key) => !known.has(key));
  if (extra.length) notes.push(["note.unknown", { field: cleanText(extra.slice(0, 3).join(", "), 60) }]);
  return done();
}

/**
 * Older versions become the present one here, one step per version.
 * @param {Record<string, unknown>} raw @param {Note[]} notes
 */
function migrate(raw, notes) {
  if (raw.version !== VERSION) {
    const shown = typeof raw.version === "number" || typeof raw.version === "string" ? raw.version : typeof raw.version;
    notes.push(["note.version", { version: cleanText(String(shown), 20), known: VERSION }]);
  }
  return raw;
}

/** @param {unknown} value @param {Doc} doc @param {Note[]} notes */
function readRegions(value, doc, notes) {
  if (value === undefined) return;
  if (!Array.isArray(value)) {
    notes.push(["note.field", { field: "regions" }]);
    return;
  }
  if (value.length > LIMITS.regions) notes.push(["note.tooMany", { count: value.length, limit: LIMITS.regions }]);
  let dropped = 0;
  for (const entry of value.slice(0, LIMITS.regions)) {
    const region = isObject(entry) ? readRegion(entry, doc, notes) : null;
    if (region) doc.regions.push(region);
    else dropped += 1;
  }
  if (dropped) notes.push(["note.dropped", { count: dropped }]);
}

/** @param {Record<string, unknown>} raw @param {Doc} doc @param {Note[]} notes @returns {Region | null} */
function readRegion(raw, doc, notes) {
  const shape = readShape(raw.shape);
  if (!shape) return null;
  const fresh = makeRegion(doc, shape);
  const idFits =
    typeof raw.id === "string" && /^[A-Za-z0-9_-]{1,64}$/.test(raw.id) && !doc.regions.some((r) => r.id === raw.id);
  const id = idFits ? /** @type {string} */ (raw.id) : fresh.id;
  const wanted = readText(raw.name, LIMITS.name, "name", notes).trim();
  const name = freeName(
    doc.regions.map((region) => region.name),
    wanted || (idFits ? id : fresh.name),
  );
  if (wanted && wanted !== name) notes.push(["note.renamed", { name, old: wanted }]);
  /** @type {Region} */
  const region = { ...fresh, id, name, ui: { ...fresh.ui, ...readUi(raw.ui, notes, name) } };
  for (const [field, limit] of Object.entries(TEXTS)) {
    region[/** @type {"prompt"} */ (field)] = readText(raw[field], limit, `${name}: ${field}`, notes);
  }
  for (const [field, [low, high]] of Object.entries(NUMBERS)) {
    const value = raw[field];
    if (value === undefined) continue;
    if (isNumber(value) && value >= low && value <= high) region[/** @type {"weight"} */ (field)] = value;
    else notes.push(["note.field", { field: `${name}: ${field}` }]);
  }
  if (typeof raw.enabled === "boolean") region.enabled = raw.enabled;
  else if (raw.enabled !== undefined) notes.push(["note.field", { field: `${name}: enabled` }]);
  if (round6(region.start) >= round6(region.end)) {
    notes.push(["note.field", { field: `${name}: start, end` }]);
    region.start = 0;
    region.end = 1;
  }
  return region;
}

/** @param {unknown} value @param {number} limit @param {string} field @param {Note[]} notes */
function readText(value, limit, field, notes) {
  if (value === undefined) return "";
  if (typeof value !== "string") {
    notes.push(["note.field", { field }]);
    return "";
  }
  const text = cleanText(value, limit);
  if (text !== value) notes.push(["note.text", { field }]);
  return text;
}

/** @param {unknown} value @param {Note[]} notes @param {string} where @returns {Ui} */
function readUi(value, notes, where) {
  /** @type {Ui} */
  const ui = {};
  if (value === undefined) return ui;
  if (!isObject(value)) {
    notes.push(["note.field", { field: `${where}: ui` }]);
    return ui;
  }
  for (const [key, entry] of Object.entries(value).slice(0, 12)) {
    if (key === "__proto__" || key.length > 40 || cleanText(key, 40) !== key) continue;
    if (typeof entry === "boolean" || isNumber(entry)) ui[key] = entry;
    else if (typeof entry === "string" && entry.length <= LIMITS.name && cleanText(entry, LIMITS.name) === entry)
      ui[key] = entry;
  }
  if ("color" in ui && !/^#[0-9a-f]{6}$/i.test(String(ui.color))) delete ui.color;
  if ("pattern" in ui && !PATTERNS.includes(String(ui.pattern))) delete ui.pattern;
  return ui;
}

/** @param {unknown} raw @returns {Shape | null} null when nothing of it can be kept */
export function readShape(raw) {
  if (!isObject(raw)) return null;
  if (raw.type === "rect" || raw.type === "ellipse") {
    const { x, y, width, height } = raw;
    if (!isNumber(x) || !isNumber(y) || !isNumber(width) || !isNumber(height)) return null;
    const box = {
      type: /** @type {"rect"} */ (raw.type),
      x: round6(x),
      y: round6(y),
      width: round6(width),
      height: round6(height),
    };
    const fits =
      [box.x, box.y].every((v) => v >= -LIMITS.far && v < 1) && [box.width, box.height].every((v) => v > 0 && v <= 9);
    return fits && box.x + box.width > 0 && box.y + box.height > 0 ? box : null;
  }
  if (raw.type === "polygon") {
    if (!Array.isArray(raw.points) || raw.points.length < 3 || raw.points.length > LIMITS.points) return null;
    /** @type {[number, number][]} */
    const points = [];
    for (const point of raw.points) {
      if (!Array.isArray(point) || point.length !== 2 || !isNumber(point[0]) || !isNumber(point[1])) return null;
      points.push([round6(point[0]), round6(point[1])]);
    }
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    const near = [...xs, ...ys].every((v) => v >= -LIMITS.far && v <= 1 + LIMITS.far);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    return near && left < 1 && top < 1 && right > 0 && bottom > 0 && left < right && top < bottom
      ? { type: "polygon", points }
      : null;
  }
  if (raw.type === "mask") {
    const { width, height, runs } = raw;
    const sides = [width, height].every((v) => Number.isInteger(v) && Number(v) >= 1 && Number(v) <= LIMITS.grid);
    if (!sides || !Array.isArray(runs) || !runs.every((run) => Number.isInteger(run) && run >= 0)) return null;
    const total = runs.reduce((sum, run) => sum + run, 0);
    const filled = runs.some((run, n) => n % 2 === 1 && run > 0);
    return total === Number(width) * Number(height) && filled
      ? { type: "mask", width: Number(width), height: Number(height), runs: runs.map(Number) }
      : null;
  }
  if (raw.type === "input") {
    const { index } = raw;
    return Number.isInteger(index) && Number(index) >= 0 && Number(index) < LIMITS.regions
      ? { type: "input", index: Number(index) }
      : null;
  }
  return null;
}
