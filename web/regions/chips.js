/** A chip per connected concept: dragged onto the canvas it becomes a region with it. */

import { el, thumbnail } from "./dom.js";
import { watchDrags } from "./dragging.js";
import { sameName } from "./fields.js";
import { keepInside, snapBox } from "./geometry.js";
import { COLORS, LIMITS, makeRegion, PATTERNS } from "./model.js";
import { addRegion } from "./tools.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./panel.js").Concepts} Concepts
 * @typedef {import("./model.js").Region} Region
 * @typedef {{translate: import("./texts.js").Translate, concepts: () => Concepts, focus: () => void,
 *   pointOf: (event: PointerEvent) => (import("./geometry.js").Point | null)}} ChipContext  `pointOf`: where on the
 *   canvas, null outside
 */

const SIZE = Object.freeze({ width: 0.4, height: 0.8 });

/** What a new region for this concept begins with. @param {Concepts} known @param {string} name @returns {Partial<Region>} */
export function regionFor(known, name) {
  const slot = Math.max(0, known.names.indexOf(name)) % COLORS.length;
  return { concept: name.slice(0, LIMITS.name), name, ui: { color: COLORS[slot], pattern: PATTERNS[slot] } };
}

/** The first concept that none of `taken` names. @param {Concepts} known @param {string[]} taken @returns {Partial<Region>} */
export function nextRegion(known, taken) {
  const name = known.names.find((wanted) => !taken.some((other) => sameName(wanted, other)));
  return name ? regionFor(known, name) : {};
}

/** @param {Editor} editor @param {ChipContext} context */
export function makeChips(editor, context) {
  const t = context.translate;
  const root = el("div", { className: "mos-chips", role: "group", "aria-label": t("chips") });
  /** A box around a place, on the grid. @param {{x: number, y: number}} at @returns {import("./model.js").Shape} */
  const boxAt = ({ x, y }) => {
    const step = { x: editor.snap / editor.size.width, y: editor.snap / editor.size.height };
    const box = keepInside({ ...SIZE, x: x - SIZE.width / 2, y: y - SIZE.height / 2 });
    const { guides: _guides, ...placed } = snapBox(box, { x: [], y: [] }, { x: 0, y: 0 }, step);
    return { type: "rect", ...keepInside(placed) };
  };
  const put = (/** @type {string} */ name, /** @type {{x: number, y: number}} */ at) =>
    addRegion(editor, boxAt(at), regionFor(context.concepts(), name));

  watchDrags(root, (press) => {
    const chip = /** @type {HTMLElement} */ (press.target).closest("[data-concept]");
    const name = chip?.getAttribute("data-concept");
    if (!name) return null;
    const { doc } = editor.history.present;
    return {
      move(event) {
        const at = context.pointOf(event);
        if (!at || doc.regions.length >= LIMITS.regions) return editor.cancel();
        const region = makeRegion(doc, boxAt(at), regionFor(context.concepts(), name));
        editor.preview({ ...doc, regions: [...doc.regions, region] });
      },
      end(event) {
        const at = event && context.pointOf(event);
        editor.cancel();
        if (!at) return;
        put(name, at);
        editor.use("select");
        context.focus();
      },
    };
  });
  /** A region that is chosen and has no concept gets it, else there is a new one in the middle. @param {string} name */
  const click = (name) => {
    const { region } = editor;
    if (region && !region.concept && !region.ui.locked) editor.edit(region.id, { concept: name });
    else put(name, { x: 0.5, y: 0.5 });
  };

  let drawn = "";
  return {
    root,
    update() {
      const known = context.concepts();
      const chips = known.names.map((name, n) => {
        const own = editor.doc.regions.find(({ concept }) => concept && sameName(name, concept));
        return { name, picture: known.pictures?.[name], color: String(own?.ui.color ?? COLORS[n % COLORS.length]) };
      });
      if (drawn === JSON.stringify(chips)) return;
      drawn = JSON.stringify(chips);
      root.replaceChildren(
        ...chips.map(({ name, picture, color }) => {
          const chip = el(
            "button",
            {
              type: "button",
              className: "mos-chip",
              title: t("chip.help", { name }),
              "data-concept": name,
              onclick: () => click(name),
            },
            [thumbnail(picture), name],
          );
          chip.style.borderColor = color;
          return chip;
        }),
      );
    },
  };
}
