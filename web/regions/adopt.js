/** Incoming masks become painted shapes, which can be edited. */

import { encodeRuns, gridSize, isEmpty } from "./bitmask.js";
import { addRegions } from "./interop.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {Map<number, ImageBitmap>} Masks by their index; the cover is in the alpha channel
 */

/** @param {ImageBitmap} mask @param {import("./geometry.js").Size} size of the canvas @returns {import("./model.js").Shape | null} */
function shapeOf(mask, size) {
  const { width, height } = gridSize(size.width, size.height);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.drawImage(mask, 0, 0, width, height);
  const { data } = pen.getImageData(0, 0, width, height);
  const cells = Uint8Array.from({ length: width * height }, (_, n) => (data[4 * n + 3] >= 128 ? 1 : 0));
  const grid = { width, height, cells };
  return isEmpty(grid) ? null : encodeRuns(grid);
}

/**
 * The incoming masks that no region uses and none was made of. @param {Editor} editor @param {Masks} masks
 * @returns {number[]}
 */
export function waitingMasks({ doc }, masks) {
  const used = doc.regions.map(({ shape, ui }) => (shape.type === "input" ? shape.index : ui.mask));
  return [...masks.keys()].filter((index) => !used.includes(index));
}

/**
 * All waiting masks at once, one region each.
 * @param {Editor} editor @param {Masks} masks @param {(index: number) => Partial<import("./model.js").Region>} about
 */
export function adoptMasks(editor, masks, about) {
  const made = waitingMasks(editor, masks).map((index) => {
    const shape = shapeOf(/** @type {ImageBitmap} */ (masks.get(index)), editor.size);
    const more = about(index);
    return { ...more, shape: shape ?? undefined, ui: { ...more.ui, mask: index } };
  });
  const { doc, added } = addRegions(
    editor.doc,
    made.filter(({ shape }) => shape),
  );
  if (added.length) editor.commit(doc, { selected: added[0].id });
  editor.say(added.length ? "say.pasted" : "say.noMask", { count: added.length });
}

/** The chosen region, an incoming mask, becomes a shape of its own. @param {Editor} editor @param {Masks} masks */
export function adoptSelected(editor, masks) {
  const { region } = editor;
  if (region?.shape.type !== "input") return;
  const { index } = region.shape;
  const mask = masks.get(index);
  const shape = mask && shapeOf(mask, editor.size);
  if (shape) editor.edit(region.id, { shape, ui: { ...region.ui, mask: index } });
  else editor.say("say.noMask");
}
