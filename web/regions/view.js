/** Where the canvas lies inside its frame: fitting, zooming, panning. Lengths are CSS pixels before any host zoom. */

import { clamp } from "./model.js";

/**
 * @typedef {{x: number, y: number, width: number, height: number}} Rect
 * @typedef {{zoom: number, x: number, y: number}} View  `x` and `y` shift the canvas from the middle, in pixels
 * @typedef {import("./geometry.js").Size} Size
 */

const PADDING = 14;

/** @param {Size} frame @param {Size} canvas @param {View} view @returns {Rect} */
export function canvasRect(frame, canvas, view) {
  const room = { width: Math.max(16, frame.width - 2 * PADDING), height: Math.max(16, frame.height - 2 * PADDING) };
  const scale = Math.min(room.width / canvas.width, room.height / canvas.height) * view.zoom;
  const [width, height] = [canvas.width * scale, canvas.height * scale];
  return { x: (frame.width - width) / 2 + view.x, y: (frame.height - height) / 2 + view.y, width, height };
}

/**
 * Zooms so that the point of the canvas under (x, y) stays there.
 * @param {Size} frame @param {Size} canvas @param {View} view @param {number} factor @param {number} x
 * @param {number} y @returns {View}
 */
export function zoomAt(frame, canvas, view, factor, x, y) {
  const zoom = clamp(view.zoom * factor, 0.5, 16);
  const before = canvasRect(frame, canvas, view);
  const [u, v] = [(x - before.x) / before.width, (y - before.y) / before.height];
  const after = canvasRect(frame, canvas, { zoom, x: 0, y: 0 });
  return keepVisible(frame, canvas, { zoom, x: x - u * after.width - after.x, y: y - v * after.height - after.y });
}

/**
 * Some of the canvas always stays in the frame.
 * @param {Size} frame @param {Size} canvas @param {View} view @returns {View}
 */
export function keepVisible(frame, canvas, view) {
  const { width, height } = canvasRect(frame, canvas, view);
  const [reachX, reachY] = [(frame.width + width) / 2 - 40, (frame.height + height) / 2 - 40];
  return { zoom: view.zoom, x: clamp(view.x, -reachX, reachX), y: clamp(view.y, -reachY, reachY) };
}
