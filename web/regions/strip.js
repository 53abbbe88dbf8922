/** The second bar: layouts, the connected concepts, what lies under the regions, and the large editor. */

import { makeChips, nextRegion } from "./chips.js";
import { el, iconButton, setField } from "./dom.js";
import { arrange, LAYOUTS } from "./layouts.js";
import { textButton } from "./toolbar.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {"none" | "wired" | "result"} Backdrop  `result`: the last picture, and while it is painted its preview
 * @typedef {import("./chips.js").ChipContext & {adopt: () => void, waiting: () => number,
 *   backdrop: () => Backdrop, chooseBackdrop: (kind: Backdrop) => void,
 *   popOut?: () => void, isOut: () => boolean}} StripContext  `waiting`: how many incoming masks no region uses
 */

export const BACKDROPS = /** @type {const} */ (["none", "wired", "result"]);

/** @param {Editor} editor @param {StripContext} context */
export function makeStrip(editor, context) {
  const t = context.translate;
  const chips = makeChips(editor, context);
  const layout = el(
    "select",
    {
      "aria-label": t("layout"),
      title: t("layout.help"),
      onchange: () => {
        const { doc } = editor;
        editor.commit(arrange(doc, layout.value, (taken) => nextRegion(context.concepts(), taken)));
        layout.selectedIndex = 0;
      },
    },
    [
      el("option", { value: "", textContent: t("layout") }),
      ...Object.keys(LAYOUTS).map((value) => el("option", { value, textContent: t(`layout.${value}`) })),
    ],
  );
  const backdrop = el(
    "select",
    {
      "aria-label": t("backdrop"),
      title: t("backdrop"),
      onchange: () => context.chooseBackdrop(/** @type {Backdrop} */ (backdrop.value)),
    },
    BACKDROPS.map((value) => el("option", { value, textContent: t(`backdrop.${value}`) })),
  );
  const adopt = textButton("", () => context.adopt(), "brush");
  const out = iconButton("large", t("popOut"), () => context.popOut?.(), { "aria-pressed": "false" });
  out.hidden = !context.popOut;
  return {
    root: el("div", { className: "mos-strip" }, [
      layout,
      chips.root,
      el("span", { className: "mos-space" }),
      adopt,
      backdrop,
      out,
    ]),
    update() {
      chips.update();
      const count = context.waiting();
      adopt.hidden = !count;
      adopt.lastChild?.replaceWith(t("adopt", { count }));
      setField(backdrop, context.backdrop());
      out.setAttribute("aria-pressed", String(context.isOut()));
      out.title = t(context.isOut() ? "popIn" : "popOut");
      out.setAttribute("aria-label", out.title);
    },
  };
}
