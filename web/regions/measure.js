/** Live figures: how much is covered, where regions overlap, which are too small. Approximate, on a coarse grid. */

import { boundsOf, sampleShape } from "./geometry.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {{covered: number, overlap: number, shares: Map<string, number>, counts: Uint8Array, width: number,
 *   height: number}} Figures
 *   covered, overlap and shares are fractions of the canvas; counts says how many regions lie on a cell
 */

export const LONG_SIDE = 96;
/**
 * Pixels that one token of SD1.5's deepest attention layer covers; on canvases for small bases, in proportion.
 * @param {Doc} doc
 */
export const deepToken = (doc) => Math.min(64, Math.round(Math.min(doc.width, doc.height) / 8));

/**
 * Samples are remembered per shape object, which are never changed in place.
 * @type {WeakMap<object, {key: string, cells: Uint8Array, count: number}>}
 */
const samples = new WeakMap();

/** @param {import("./model.js").Shape} shape @param {number} width @param {number} height */
function sampled(shape, width, height) {
  const key = `${width}x${height}`;
  const known = samples.get(shape);
  if (known?.key === key) return known;
  const cells = sampleShape(shape, width, height);
  const entry = { key, cells, count: cells.reduce((sum, cell) => sum + cell, 0) };
  samples.set(shape, entry);
  return entry;
}

/** @param {Doc} doc @returns {{width: number, height: number}} */
export function coarseSize(doc) {
  const scale = LONG_SIDE / Math.max(doc.width, doc.height);
  return { width: Math.max(1, Math.round(doc.width * scale)), height: Math.max(1, Math.round(doc.height * scale)) };
}

/** @param {Doc} doc @returns {Figures} */
export function measure(doc) {
  const { width, height } = coarseSize(doc);
  const counts = new Uint8Array(width * height);
  const shares = new Map();
  for (const region of doc.regions) {
    const { cells, count } = sampled(region.shape, width, height);
    shares.set(region.id, count / cells.length);
    if (region.strength > 0) for (let n = 0; n < cells.length; n += 1) counts[n] += cells[n];
  }
  let [covered, overlap] = [0, 0];
  for (const count of counts) {
    if (count) covered += 1;
    if (count > 1) overlap += 1;
  }
  return { covered: covered / counts.length, overlap: overlap / counts.length, shares, counts, width, height };
}

/**
 * True when a region is narrower than one token of the deepest layer.
 * @param {Doc} doc @param {import("./model.js").Region} region
 */
export function tooSmall(doc, region) {
  if (region.shape.type === "input") return false;
  const box = boundsOf(region.shape);
  return box.width * doc.width < deepToken(doc) - 0.5 || box.height * doc.height < deepToken(doc) - 0.5;
}
