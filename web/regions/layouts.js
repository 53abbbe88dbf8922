/** Ready arrangements of regions. A layout moves what is there and adds what is missing, in one step. */

import { fitInto } from "./geometry.js";
import { changeRegion, LIMITS, makeRegion, round6 } from "./model.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./model.js").Region} Region
 * @typedef {readonly [x: number, y: number, width: number, height: number]} Cell
 */

/** @param {number} across @param {number} down @returns {Cell[]} row by row */
const grid = (across, down) =>
  Array.from({ length: across * down }, (_, n) => [
    (n % across) / across,
    Math.floor(n / across) / down,
    1 / across,
    1 / down,
  ]);

/** @type {Readonly<Record<string, readonly Cell[]>>} */
export const LAYOUTS = Object.freeze({
  columns2: grid(2, 1),
  columns3: grid(3, 1),
  rows2: grid(1, 2),
  rows3: grid(1, 3),
  grid: grid(2, 2),
  portraits: /** @type {Cell[]} */ ([
    [0.04, 0.1, 0.44, 0.9],
    [0.52, 0.1, 0.44, 0.9],
  ]),
});

/**
 * The first regions, from the lowest number, take the cells; what is locked or off and incoming masks stay as they are.
 * @param {Doc} doc @param {string} layout a key of LAYOUTS
 * @param {(taken: string[]) => Partial<Region>} next what a new region is for, given the concepts that have one
 * @returns {Doc}
 */
export function arrange(doc, layout, next) {
  const movable = doc.regions.filter(({ shape, ui, enabled }) => enabled && shape.type !== "input" && !ui.locked);
  let made = doc;
  LAYOUTS[layout].forEach(([x, y, width, height], n) => {
    const box = { x: round6(x), y: round6(y), width: round6(width), height: round6(height) };
    const region = movable[n];
    if (region) {
      made = changeRegion(made, region.id, { shape: fitInto(region.shape, box) });
    } else if (made.regions.length < LIMITS.regions) {
      const extra = next(made.regions.map(({ concept }) => concept));
      made = { ...made, regions: [...made.regions, makeRegion(made, { type: "rect", ...box }, extra)] };
    }
  });
  return made;
}
