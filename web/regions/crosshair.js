/** Drawing without a pointer: with a drawing tool, arrows move a crosshair, Enter presses and releases there. */

import { clamp } from "./model.js";
import { begin, closePolygon } from "./tools.js";

/** @typedef {import("./state.js").Editor} Editor */

const DRAWING = new Set(["rect", "ellipse", "polygon", "brush", "eraser"]);
/** @type {Record<string, [number, number]>} */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {Editor} editor @param {KeyboardEvent} event @returns {boolean} true when the key was used */
export function handleCrosshair(editor, event) {
  if (!DRAWING.has(editor.tool)) return false;
  const direction = ARROWS[event.key];
  if (direction) moveCrosshair(editor, direction, event.shiftKey ? 10 : 1, event.altKey);
  else if (event.key === "Enter" && editor.cross) pressAt(editor, editor.cross);
  else return false;
  return true;
}

/** Forgets the crosshair and what it was drawing. @param {Editor} editor @returns {boolean} whether it was drawing */
export function dropCrosshair(editor) {
  const drawing = editor.held !== null;
  editor.held = editor.cross = null;
  if (drawing) editor.cancel();
  return drawing;
}

/** By the snap (alt: by one pixel). @param {Editor} editor @param {[number, number]} way @param {number} steps @param {boolean} fine */
function moveCrosshair(editor, [dx, dy], steps, fine) {
  const { width, height } = editor.size;
  const pixels = steps * (fine ? 1 : Math.max(1, editor.snap));
  const from = editor.cross ?? { x: 0.5, y: 0.5 };
  editor.cross = {
    x: clamp(from.x + (dx * pixels) / width, 0, 1),
    y: clamp(from.y + (dy * pixels) / height, 0, 1),
  };
  editor.pointer = editor.cross;
  editor.held?.move(pressOf(editor, editor.cross));
  editor.say(editor.held ? "say.drawing" : "say.at", {
    x: Math.round(editor.cross.x * width),
    y: Math.round(editor.cross.y * height),
  });
}

/** @param {Editor} editor @param {import("./geometry.js").Point} cross */
function pressAt(editor, cross) {
  const at = pressOf(editor, cross);
  if (editor.tool === "polygon") {
    const last = editor.corners?.at(-1);
    if (last && last.x === cross.x && last.y === cross.y) closePolygon(editor);
    else begin(editor, at)?.end(at);
    return;
  }
  const { held } = editor;
  if (!held) {
    editor.held = begin(editor, at);
    return;
  }
  editor.held = null;
  held.end(at);
}

/** @param {Editor} editor @param {import("./geometry.js").Point} cross @returns {import("./tools.js").Press} */
function pressOf({ size }, { x, y }) {
  const pixel = { x: 1 / size.width, y: 1 / size.height };
  return { x, y, reach: pixel, pull: pixel, shift: false, alt: false, free: true, pressure: 1 };
}
