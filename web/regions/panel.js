/** Beside the canvas: the list of regions and the fields of the chosen one. */

import { el, iconButton } from "./dom.js";
import { makeBackgroundFields, makeRegionFields } from "./fields.js";
import { duplicateSelected, removeSelected } from "./keys.js";
import { makeList } from "./list.js";
import { reorderRegion } from "./model.js";
import { addRegion } from "./tools.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {{names: string[], complete: boolean, pictures?: Record<string, string>}} Concepts  `complete` = no other
 *   name can be right; `pictures` are addresses, by name
 * @typedef {{translate: import("./texts.js").Translate, concepts: () => Concepts,
 *   complete: ReturnType<typeof import("./complete.js").makeCompleter>,
 *   adoptable: (region: import("./model.js").Region) => boolean, paintable: () => void}} PanelContext
 *   `adoptable`: whether the mask of an incoming one is known
 */

/** The middle third of the canvas, for regions made without a pointer. */
const MIDDLE = Object.freeze({ x: 0.3125, y: 0.25, width: 0.375, height: 0.5 });
/** @type {[number, number][]} */
const DIAMOND = [
  [0.5, 0.25],
  [0.6875, 0.5],
  [0.5, 0.75],
  [0.3125, 0.5],
];

/**
 * @param {Editor} editor @param {PanelContext} context
 * @returns {{panel: HTMLElement, update: (figures: import("./measure.js").Figures) => void}}
 */
export function makePanel(editor, context) {
  const t = context.translate;
  const list = makeList(editor, context);
  const hint = el("p", { className: "mos-share", textContent: t("empty.pick") });
  const actions = el("div", { className: "mos-actions" }, [
    iconButton("rect", t("add.rect"), () => addRegion(editor, { type: "rect", ...MIDDLE })),
    iconButton("ellipse", t("add.ellipse"), () => addRegion(editor, { type: "ellipse", ...MIDDLE })),
    iconButton("polygon", t("add.polygon"), () => addRegion(editor, { type: "polygon", points: DIAMOND })),
    el("span", { className: "mos-space" }),
    iconButton("up", t("up"), () => editor.region && editor.commit(reorderRegion(editor.doc, editor.region.id, 1))),
    iconButton(
      "down",
      t("down"),
      () => editor.region && editor.commit(reorderRegion(editor.doc, editor.region.id, -1)),
    ),
    iconButton("copy", t("duplicate"), () => duplicateSelected(editor)),
    iconButton("trash", t("delete"), () => removeSelected(editor)),
  ]);
  const region = makeRegionFields(editor, context);
  const background = makeBackgroundFields(editor, context);
  const fields = el("div", { className: "mos-fields" }, [actions, hint, region.root, background.root]);
  const panel = el("div", { className: "mos-panel" }, [list.root, fields]);
  return {
    panel,
    update(figures) {
      list.update(figures);
      hint.hidden = editor.selected !== null;
      region.update();
      background.update();
    },
  };
}
