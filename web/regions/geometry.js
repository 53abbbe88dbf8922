/** Pure geometry in fractions of the canvas: boxes, hits, handles, moving, resizing, snapping. */

import { decodeRuns, maskBounds, redrawMask } from "./bitmask.js";
import { clamp, round6 } from "./model.js";
import { insideTest } from "./raster.js";

/**
 * @typedef {import("./model.js").Shape} Shape
 * @typedef {{x: number, y: number, width: number, height: number}} Box
 * @typedef {{x: number, y: number}} Point
 * @typedef {{width: number, height: number}} Size
 * @typedef {{id: string, x: number, y: number}} Handle
 * @typedef {{axis: "x" | "y", at: number}} Guide
 */

export const FULL = Object.freeze({ x: 0, y: 0, width: 1, height: 1 });

/** @param {Shape} shape @returns {Box} */
export function boundsOf(shape) {
  if (shape.type === "input") return { ...FULL };
  if (shape.type === "mask") return maskBounds(shape);
  if (shape.type === "polygon") {
    const xs = shape.points.map(([x]) => x);
    const ys = shape.points.map(([, y]) => y);
    const [x, y] = [Math.min(...xs), Math.min(...ys)];
    return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
  }
  return { x: shape.x, y: shape.y, width: shape.width, height: shape.height };
}

/** The shape scaled and moved from its box into another one. @param {Shape} shape @param {Box} to @returns {Shape} */
export function fitInto(shape, to) {
  const from = boundsOf(shape);
  if (shape.type === "input" || to.width <= 0 || to.height <= 0) return shape;
  if (shape.type === "mask") return redrawMask(shape, from, to);
  if (shape.type === "polygon") {
    const points = shape.points.map(
      ([x, y]) =>
        /** @type {[number, number]} */ ([
          round6(to.x + ((x - from.x) / from.width) * to.width),
          round6(to.y + ((y - from.y) / from.height) * to.height),
        ]),
    );
    return { type: "polygon", points };
  }
  return { ...shape, x: round6(to.x), y: round6(to.y), width: round6(to.width), height: round6(to.height) };
}

/** A box moved so that it stays on the canvas; one that is larger keeps covering it. @param {Box} box @returns {Box} */
export function keepInside(box) {
  const [roomX, roomY] = [1 - box.width, 1 - box.height];
  return {
    ...box,
    x: clamp(box.x, Math.min(0, roomX), Math.max(0, roomX)),
    y: clamp(box.y, Math.min(0, roomY), Math.max(0, roomY)),
  };
}

/** @param {Shape} shape @param {Point} point */
export function hits(shape, point) {
  if (shape.type === "input") return false;
  if (shape.type === "mask") {
    if (point.x < 0 || point.y < 0 || point.x >= 1 || point.y >= 1) return false;
    const at = Math.floor(point.y * shape.height) * shape.width + Math.floor(point.x * shape.width);
    let end = 0;
    return shape.runs.findIndex((run) => (end += run) > at) % 2 === 1;
  }
  return insideTest(shape, 1, 1)(point.x, point.y);
}

/**
 * Regions under a point, topmost first, without hidden ones.
 * @param {import("./model.js").Region[]} regions @param {Point} point
 */
export const regionsAt = (regions, point) =>
  regions.filter((region) => !region.ui.hidden && hits(region.shape, point)).reverse();

/** Handles of a shape: eight on a box, one per corner of a polygon. @param {Shape} shape @returns {Handle[]} */
export function handlesOf(shape) {
  if (shape.type === "input") return [];
  if (shape.type === "polygon") return shape.points.map(([x, y], n) => ({ id: `p${n}`, x, y }));
  const { x, y, width, height } = boundsOf(shape);
  const [cx, cy, right, bottom] = [x + width / 2, y + height / 2, x + width, y + height];
  return [
    { id: "nw", x, y },
    { id: "n", x: cx, y },
    { id: "ne", x: right, y },
    { id: "e", x: right, y: cy },
    { id: "se", x: right, y: bottom },
    { id: "s", x: cx, y: bottom },
    { id: "sw", x, y: bottom },
    { id: "w", x, y: cy },
  ];
}

/**
 * The box after dragging one of its handles to a point. `square` keeps the proportions it had.
 * @param {Box} box @param {string} handle @param {Point} to @param {boolean} square @param {Size} size @returns {Box}
 */
export function dragHandle(box, handle, to, square, size) {
  let [left, top, right, bottom] = [box.x, box.y, box.x + box.width, box.y + box.height];
  if (handle.includes("w")) left = to.x;
  if (handle.includes("e")) right = to.x;
  if (handle.includes("n")) top = to.y;
  if (handle.includes("s")) bottom = to.y;
  if (square && handle.length === 2) {
    const ratio = (box.height * size.height) / (box.width * size.width);
    const height = (Math.abs(right - left) * size.width * ratio) / size.height;
    if (handle.includes("n")) top = bottom - Math.sign(bottom - top || 1) * height;
    else bottom = top + Math.sign(bottom - top || 1) * height;
  }
  const [minX, minY] = [1 / size.width, 1 / size.height];
  return {
    x: Math.min(left, right),
    y: Math.min(top, bottom),
    width: Math.max(minX, Math.abs(right - left)),
    height: Math.max(minY, Math.abs(bottom - top)),
  };
}

/**
 * The box between two points; `square` in pixels, `centred` grows from the first point.
 * @param {Point} a @param {Point} b @param {boolean} square @param {boolean} centred @param {Size} size
 * @returns {Box}
 */
export function boxBetween(a, b, square, centred, size) {
  let [dx, dy] = [b.x - a.x, b.y - a.y];
  if (square) {
    const side = Math.max(Math.abs(dx) * size.width, Math.abs(dy) * size.height);
    dx = (Math.sign(dx || 1) * side) / size.width;
    dy = (Math.sign(dy || 1) * side) / size.height;
  }
  const start = centred ? { x: a.x - dx, y: a.y - dy } : a;
  const end = { x: a.x + dx, y: a.y + dy };
  const [left, top] = [clamp(Math.min(start.x, end.x), 0, 1), clamp(Math.min(start.y, end.y), 0, 1)];
  return {
    x: left,
    y: top,
    width: clamp(Math.max(start.x, end.x), 0, 1) - left,
    height: clamp(Math.max(start.y, end.y), 0, 1) - top,
  };
}

/** Lines worth snapping to: borders, centre, thirds, and the other regions' edges and centres. @param {Box[]} others */
export function snapLines(others) {
  const common = [0, 1 / 3, 0.5, 2 / 3, 1];
  const xs = others.flatMap((box) => [box.x, box.x + box.width / 2, box.x + box.width]);
  const ys = others.flatMap((box) => [box.y, box.y + box.height / 2, box.y + box.height]);
  return { x: [...common, ...xs], y: [...common, ...ys] };
}

/**
 * One coordinate pulled to the nearest line within `reach`, else to the pixel grid (`step` in fractions, 0 = none).
 * @param {number} value @param {number[]} lines @param {number} reach @param {number} step
 * @returns {{value: number, line: number | null}}
 */
export function snapValue(value, lines, reach, step) {
  let best = null;
  for (const line of lines) {
    if (Math.abs(line - value) <= reach && (best === null || Math.abs(line - value) < Math.abs(best - value)))
      best = line;
  }
  if (best !== null) return { value: best, line: best };
  return { value: step ? Math.round(value / step) * step : value, line: null };
}

/**
 * A point snapped on both axes. @param {Point} point @param {{x: number[], y: number[]}} lines
 * @param {Point} reach @param {Point} step
 * @returns {Point & {guides: Guide[]}}
 */
export function snapPoint(point, lines, reach, step) {
  const x = snapValue(point.x, lines.x, reach.x, step.x);
  const y = snapValue(point.y, lines.y, reach.y, step.y);
  /** @type {Guide[]} */
  const guides = [];
  if (x.line !== null) guides.push({ axis: "x", at: x.line });
  if (y.line !== null) guides.push({ axis: "y", at: y.line });
  return { x: x.value, y: y.value, guides };
}

/**
 * A moved box snapped by its edges or its centre, whichever is nearest to a line.
 * @param {Box} box @param {{x: number[], y: number[]}} lines @param {Point} reach @param {Point} step
 * @returns {Box & {guides: Guide[]}}
 */
export function snapBox(box, lines, reach, step) {
  /** @type {Guide[]} */
  const guides = [];
  const place = (/** @type {"x" | "y"} */ axis, /** @type {number} */ start, /** @type {number} */ length) => {
    let best = null;
    for (const part of [0, length / 2, length]) {
      const { line } = snapValue(start + part, lines[axis], reach[axis], 0);
      if (line !== null && (best === null || Math.abs(line - part - start) < Math.abs(best.start - start)))
        best = { start: line - part, line };
    }
    if (best) {
      guides.push({ axis, at: best.line });
      return best.start;
    }
    return step[axis] ? Math.round(start / step[axis]) * step[axis] : start;
  };
  return { ...box, x: place("x", box.x, box.width), y: place("y", box.y, box.height), guides };
}

/**
 * Index of the polygon edge nearest to a point (in pixels), with the distance.
 * @param {[number, number][]} points @param {Point} at @param {Size} size
 */
export function nearestEdge(points, at, size) {
  let best = { index: -1, distance: Infinity };
  points.forEach(([ax, ay], index) => {
    const [bx, by] = points[(index + 1) % points.length];
    const [ex, ey] = [(bx - ax) * size.width, (by - ay) * size.height];
    const [px, py] = [(at.x - ax) * size.width, (at.y - ay) * size.height];
    const t = clamp((px * ex + py * ey) / (ex * ex + ey * ey || 1), 0, 1);
    const distance = Math.hypot(px - t * ex, py - t * ey);
    if (distance < best.distance) best = { index, distance };
  });
  return best;
}

/**
 * Corners dropped that barely turn the outline, until at most `limit` remain.
 * @param {[number, number][]} points @param {number} limit
 */
export function thin(points, limit) {
  const kept = points.slice();
  while (kept.length > Math.max(3, limit)) {
    let least = { index: 0, area: Infinity };
    kept.forEach(([x, y], index) => {
      const [ax, ay] = kept[(index + kept.length - 1) % kept.length];
      const [bx, by] = kept[(index + 1) % kept.length];
      const area = Math.abs((bx - ax) * (y - ay) - (by - ay) * (x - ax));
      if (area < least.area) least = { index, area };
    });
    kept.splice(least.index, 1);
  }
  return kept;
}

/**
 * Centre samples of a shape on a coarse grid, 1 inside.
 * @param {Shape} shape @param {number} width @param {number} height @returns {Uint8Array}
 */
export function sampleShape(shape, width, height) {
  if (shape.type === "input") return new Uint8Array(width * height);
  if (shape.type === "mask") return decodeRuns(shape, width, height).cells;
  const inside = insideTest(shape, width, height);
  const cells = new Uint8Array(width * height);
  const box = boundsOf(shape);
  const [x1, x2] = [Math.max(0, Math.floor(box.x * width)), Math.min(width, Math.ceil((box.x + box.width) * width))];
  const [y1, y2] = [
    Math.max(0, Math.floor(box.y * height)),
    Math.min(height, Math.ceil((box.y + box.height) * height)),
  ];
  for (let y = y1; y < y2; y += 1)
    for (let x = x1; x < x2; x += 1) cells[y * width + x] = Number(inside(x + 0.5, y + 0.5));
  return cells;
}
