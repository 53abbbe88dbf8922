/**
 * What can be pasted or imported: our documents and regions, the host's bounding boxes, the reference's region
 * strings.
 */

import { cleanText, LIMITS, makeRegion, writeDoc } from "./model.js";
import { readDoc, readShape } from "./read.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./model.js").Region} Region
 * @typedef {{kind: "document", doc: Doc, notes: import("./model.js").Note[]} | {kind: "regions",
 *   regions: Partial<Region>[]} | {kind: "none"}} Pasted
 */

const TAG = "mixofshow-region";

/**
 * Clipboard text of one region: a document that holds only it, so that pasting validates it like any other.
 * @param {Doc} doc @param {Region} region
 */
export const copyText = (doc, region) => JSON.stringify({ [TAG]: JSON.parse(writeDoc({ ...doc, regions: [region] })) });

/** @param {string} text @param {Doc} doc the present document (for its size) @returns {Pasted} */
export function readPaste(text, doc) {
  const trimmed = text.trim();
  if (!trimmed || trimmed.length > LIMITS.bytes * 4) return { kind: "none" };
  if (trimmed.includes("-*-")) return listOf(readReference(trimmed, doc));
  /** @type {any} */
  let raw;
  try {
    raw = JSON.parse(trimmed);
  } catch {
    return { kind: "none" };
  }
  if (Array.isArray(raw)) return listOf(readBoxes(raw, doc));
  if (typeof raw !== "object" || raw === null) return { kind: "none" };
  if (raw[TAG]) return listOf(readDoc(JSON.stringify(raw[TAG]), doc).doc.regions);
  if ("regions" in raw) {
    const read = readDoc(trimmed, doc);
    return { kind: "document", doc: read.doc, notes: read.notes };
  }
  for (const key of ["__value__", "boxes", "bboxes", "bounding_boxes"])
    if (Array.isArray(raw[key])) return listOf(readBoxes(raw[key], doc));
  return listOf(readBoxes([raw], doc));
}

/** @param {Partial<Region>[]} regions @returns {Pasted} */
const listOf = (regions) => (regions.length ? { kind: "regions", regions } : { kind: "none" });

/**
 * The host's bounding boxes in pixels ({x, y, width, height, metadata?}, also nested per frame), and [x1, y1, x2, y2].
 * @param {unknown[]} raw @param {Doc} doc @param {number} depth @returns {Partial<Region>[]}
 */
function readBoxes(raw, doc, depth = 0) {
  /** @type {Partial<Region>[]} */
  const found = [];
  for (const entry of raw.slice(0, LIMITS.regions)) {
    if (Array.isArray(entry) && entry.some((item) => typeof item === "object" && item !== null)) {
      if (depth < 2) found.push(...readBoxes(entry, doc, depth + 1));
      continue;
    }
    if (typeof entry !== "object" || entry === null) continue;
    const box = Array.isArray(entry) ? cornersToBox(entry) : /** @type {Record<string, unknown>} */ (entry);
    const [x, y, width, height] = ["x", "y", "width", "height"].map((key) => Number(box[key]));
    const shape = readShape({
      type: "rect",
      x: x / doc.width,
      y: y / doc.height,
      width: width / doc.width,
      height: height / doc.height,
    });
    if (!shape) continue;
    const meta = /** @type {Record<string, unknown>} */ (
      typeof box.metadata === "object" && box.metadata ? box.metadata : box
    );
    found.push({
      shape,
      prompt: word(meta.desc ?? meta.prompt ?? meta.text, LIMITS.text),
      name: word(meta.label ?? meta.name, LIMITS.name),
    });
  }
  return found;
}

/** @param {unknown[]} list @returns {Record<string, unknown>} */
function cornersToBox(list) {
  const [x1, y1, x2, y2] = list.map(Number);
  return list.length === 4 ? { x: x1, y: y1, width: x2 - x1, height: y2 - y1 } : {};
}

/** @param {unknown} value @param {number} limit */
const word = (value, limit) => (typeof value === "string" ? cleanText(value.trim(), limit) : "");

/**
 * `[prompt]-*-[negative]-*-[top, left, bottom, right]|...` of the original code, in pixels of the present canvas.
 * @param {string} text @param {Doc} doc @returns {Partial<Region>[]}
 */
function readReference(text, doc) {
  /** @type {Partial<Region>[]} */
  const found = [];
  for (const part of text.split("|").slice(0, LIMITS.regions)) {
    const pieces = part.split("-*-").map((piece) => piece.replace(/[[\]]/g, "").trim());
    const numbers = pieces[2] ? pieces[2].split(",").map(Number) : [0, 0, doc.height, doc.width]; // empty: everything
    if (pieces.length !== 3 || numbers.length !== 4) continue;
    const [top, left, bottom, right] = numbers;
    const shape = readShape({
      type: "rect",
      x: left / doc.width,
      y: top / doc.height,
      width: (right - left) / doc.width,
      height: (bottom - top) / doc.height,
    });
    if (shape)
      found.push({ shape, prompt: cleanText(pieces[0], LIMITS.text), negative: cleanText(pieces[1], LIMITS.text) });
  }
  return found;
}

/**
 * The document with the regions added on top, as far as there is room.
 * @param {Doc} doc @param {Partial<Region>[]} regions @returns {{doc: Doc, added: Region[]}}
 */
export function addRegions(doc, regions) {
  /** @type {Region[]} */
  const added = [];
  let next = doc;
  for (const part of regions) {
    if (next.regions.length >= LIMITS.regions || !part.shape) break;
    const { color: _color, pattern: _pattern, locked: _locked, hidden: _hidden, ...ui } = part.ui ?? {};
    const region = makeRegion(next, part.shape, { ...part, ui });
    added.push(region);
    next = { ...next, regions: [...next.regions, region] };
  }
  return { doc: next, added };
}
