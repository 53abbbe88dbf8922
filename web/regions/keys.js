/** The keyboard: which key does what. Returns true for keys that were ours, so that all others reach ComfyUI. */

import { ARROWS, dropCrosshair, handleCrosshair } from "./crosshair.js";
import { boundsOf, fitInto, keepInside } from "./geometry.js";
import { addRegions } from "./interop.js";
import { clamp, reorderRegion } from "./model.js";
import { BACKGROUND } from "./state.js";
import { closePolygon } from "./tools.js";

/** @typedef {import("./state.js").Editor} Editor */

/** @type {Record<string, import("./state.js").Tool>} */
export const TOOL_KEYS = { v: "select", r: "rect", o: "ellipse", p: "polygon", b: "brush", e: "eraser", h: "hand" };

/** @param {Editor} editor */
export function removeSelected(editor) {
  const { region, doc } = editor;
  if (!region) return;
  if (region.ui.locked) return editor.say("say.locked");
  const at = doc.regions.indexOf(region);
  const rest = doc.regions.filter((other) => other !== region);
  editor.commit({ ...doc, regions: rest }, { selected: rest[Math.min(at, rest.length - 1)]?.id ?? null });
  editor.say("say.removed", { name: region.name });
}

/** @param {Editor} editor */
export function duplicateSelected(editor) {
  if (!editor.region) return;
  const region = editor.region;
  const box = boundsOf(region.shape);
  const shifted = keepInside({ ...box, x: box.x + 16 / editor.size.width, y: box.y + 16 / editor.size.height });
  const { doc, added } = addRegions(editor.doc, [{ ...region, shape: fitInto(region.shape, shifted) }]);
  if (added.length) editor.commit(doc, { selected: added[0].id });
  else editor.say("say.full", { limit: editor.doc.regions.length });
}

/** Switches the chosen region off or on. @param {Editor} editor */
export function flipEnabled(editor) {
  const { region } = editor;
  if (!region) return;
  editor.edit(region.id, { enabled: !region.enabled });
  editor.say(region.enabled ? "say.off" : "say.on", { name: region.name });
}

/** Background, then regions from the top, as in the list. @param {Editor} editor @param {number} by */
export function cycle(editor, by) {
  const order = [...editor.doc.regions.map((region) => region.id).reverse(), BACKGROUND];
  const at = order.indexOf(editor.selected ?? "");
  editor.select(order[(at + by + (at < 0 && by < 0 ? 1 : 0) + order.length) % order.length]);
}

/**
 * Moves (or with alt resizes) by whole pixels.
 * @param {Editor} editor @param {[number, number]} direction @param {number} pixels @param {boolean} grow
 */
export function nudge(editor, [dx, dy], pixels, grow) {
  const { region } = editor;
  if (!region || region.shape.type === "input") return;
  if (region.ui.locked) return editor.say("say.locked");
  const unit = region.shape.type === "mask" ? { width: region.shape.width, height: region.shape.height } : editor.size;
  const step = { x: (dx * pixels) / unit.width, y: (dy * pixels) / unit.height };
  const box = boundsOf(region.shape);
  const smallest = { width: 1 / unit.width, height: 1 / unit.height };
  const to = grow
    ? {
        ...box,
        width: clamp(box.width + step.x, smallest.width, Math.max(box.width, 1 - box.x)),
        height: clamp(box.height + step.y, smallest.height, Math.max(box.height, 1 - box.y)),
      }
    : keepInside({ ...box, x: box.x + step.x, y: box.y + step.y });
  editor.edit(region.id, { shape: fitInto(region.shape, to) }, `nudge ${region.id} ${grow}`);
}

/**
 * @param {Editor} editor @param {KeyboardEvent} event
 * @param {{escape: () => boolean, zoom: (factor: number) => void}} actions `escape` cancels a running gesture
 */
export function handleKey(editor, event, actions) {
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (command && !event.altKey) {
    if (key === "z") event.shiftKey ? editor.redo() : editor.undo();
    else if (key === "y") editor.redo();
    else if (key === "d") duplicateSelected(editor);
    else return false; // copy, cut and paste come as clipboard events; the rest is the host's
    return true;
  }
  if (command) return false;
  if (handleCrosshair(editor, event)) return true;
  if (key in ARROWS) nudge(editor, ARROWS[key], event.shiftKey ? 10 : 1, event.altKey);
  else if (key === "Delete") removeSelected(editor);
  else if (key === "Backspace") {
    if (editor.corners?.length) {
      editor.corners = editor.corners.length > 1 ? editor.corners.slice(0, -1) : null;
      editor.notify();
    } else removeSelected(editor);
  } else if (key === "Tab" && editor.doc.regions.length && !atEnd(editor, event.shiftKey))
    cycle(editor, event.shiftKey ? -1 : 1);
  else if (key === "Escape") {
    if (dropCrosshair(editor) || actions.escape()) return true;
    if (editor.tool !== "select") editor.use("select");
    else if (editor.selected) editor.select(null);
    else return false;
  } else if (key === "Enter" && editor.corners) closePolygon(editor);
  else if (key === "[" || key === "]") {
    editor.brush = clamp(editor.brush * (key === "]" ? 1.25 : 0.8), 0.004, 0.5);
    editor.notify();
  } else if (key === "PageUp" || key === "PageDown") {
    if (editor.region) editor.commit(reorderRegion(editor.doc, editor.region.id, key === "PageUp" ? 1 : -1));
  } else if (key === "t" && !event.altKey) flipEnabled(editor);
  else if (/^[1-9]$/.test(key)) {
    const region = editor.doc.regions[Number(key) - 1];
    if (region) editor.select(region.id);
  } else if (key === "+" || key === "=") actions.zoom(1.25);
  else if (key === "-") actions.zoom(0.8);
  else if (key === "0") actions.zoom(0);
  else if (key in TOOL_KEYS && !event.altKey) editor.use(TOOL_KEYS[key]);
  else return false;
  return true;
}

/**
 * Tab leaves the canvas after the last entry, so that nobody is trapped.
 * @param {Editor} editor @param {boolean} backwards
 */
function atEnd(editor, backwards) {
  if (editor.selected === null) return false;
  return backwards ? editor.selected === editor.doc.regions.at(-1)?.id : editor.selected === BACKGROUND;
}
