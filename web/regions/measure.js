/** Live figures: how much is covered, where regions overlap, which are too small. Approximate, on a coarse grid. */

import { sampleShape } from "./geometry.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {{covered: number, overlap: number, shares: Map<string, number>, counts: Uint8Array, width: number,
 *   height: number}} Figures
 *   covered, overlap and shares are fractions of the canvas; counts says how many regions lie on a cell
 */

export const LONG_SIDE = 96;
/** Pixels that one token of an attention layer covers. SD1.5 attends at all four, SDXL at 16 and 32. */
export const TOKENS = Object.freeze([64, 32, 16, 8]);
/** Samples per side of a token, and how many of a canvas are worth the time of a frame. */
const FINE = 4;
const MOST_SAMPLES = 1 << 18;

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

/**
 * As the server counts: what is switched off, or has neither a prompt nor a concept, takes no place.
 * @param {import("./model.js").Region} region
 */
export const claims = ({ prompt, concept, enabled }) => enabled && Boolean(prompt.trim() || concept.trim());

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
    if (region.strength > 0 && claims(region)) for (let n = 0; n < cells.length; n += 1) counts[n] += cells[n];
  }
  let [covered, overlap] = [0, 0];
  for (const count of counts) {
    if (count) covered += 1;
    if (count > 1) overlap += 1;
  }
  return { covered: covered / counts.length, overlap: overlap / counts.length, shares, counts, width, height };
}

/** @type {WeakMap<object, {key: string, lost: readonly number[]}>} */
const losses = new WeakMap();

/**
 * Token sizes, finest first, at which a region owns no token: none half covered, or with hard edges none wholly. Sizes
 * of which fewer than four fit the shorter side are left out: no model of such small canvases has them.
 * @param {Doc} doc @param {import("./model.js").Region} region @returns {readonly number[]}
 */
export function lostTokens(doc, region) {
  if (region.shape.type === "input") return [];
  const key = `${doc.width}x${doc.height} ${doc.edges}`;
  const known = losses.get(region.shape);
  if (known?.key === key) return known.lost;
  const lost = [];
  for (const token of TOKENS) {
    if (token * 4 > Math.min(doc.width, doc.height)) continue;
    const [across, down] = [Math.ceil(doc.width / token), Math.ceil(doc.height / token)];
    if (across * down * FINE * FINE > MOST_SAMPLES) break;
    if (bestCover(region.shape, across, down) >= (doc.edges === "paper" ? 1 : 0.5)) break; // finer ones are covered too
    lost.unshift(token);
  }
  losses.set(region.shape, { key, lost });
  return lost;
}

/** Share of the best covered token. @param {import("./model.js").Shape} shape @param {number} across @param {number} down */
function bestCover(shape, across, down) {
  const cells = sampleShape(shape, across * FINE, down * FINE);
  const sums = new Uint8Array(across * down);
  let best = 0;
  for (let y = 0, n = 0; y < down * FINE; y += 1)
    for (let x = 0; x < across * FINE; x += 1, n += 1)
      if (cells[n]) best = Math.max(best, (sums[Math.floor(y / FINE) * across + Math.floor(x / FINE)] += 1));
  return best / (FINE * FINE);
}
