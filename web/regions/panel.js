/** The list of regions, which mirrors the canvas, and the fields of the chosen one. */

import { el, iconButton } from "./dom.js";
import { isUnknown, makeBackgroundFields, makeRegionFields, unknownText } from "./fields.js";
import { duplicateSelected, removeSelected } from "./keys.js";
import { boundsOf } from "./geometry.js";
import { claims, lostTokens } from "./measure.js";
import { reorderRegion } from "./model.js";
import { colorOf } from "./render.js";
import { BACKGROUND } from "./state.js";
import { addRegion } from "./tools.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./model.js").Region} Region
 * @typedef {{names: string[], complete: boolean}} Concepts  `complete` = no other name can be right
 * @typedef {Map<string, {share: HTMLElement, heard: HTMLElement, warn: string}>} Shares
 * @typedef {{translate: import("./texts.js").Translate, concepts: () => Concepts}} PanelContext
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
  const list = el("ul", { className: "mos-list", role: "list", "aria-label": t("regions") });
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
  const panel = el("div", { className: "mos-panel" }, [list, fields]);
  let drawn = "";
  /** @type {Shares} */
  const shares = new Map();
  /** What is wrong with a region. @param {Region} entry @param {number | undefined} share @param {Concepts} known */
  const warning = (entry, share, known) => {
    if (editor.blamed?.id === entry.id) return editor.blamed.text;
    if (isUnknown(entry.concept, known)) return unknownText(t, known);
    if (entry.shape.type === "input") return "";
    if (share === 0) return t("warn.tiny");
    const lost = lostTokens(editor.doc, entry);
    return lost.length ? t("warn.small", { pixels: lost.join(", ") }) : "";
  };

  return {
    panel,
    update(figures) {
      const { doc, selected } = editor;
      const known = context.concepts();
      const warnings = doc.regions.map((entry) => warning(entry, figures.shares.get(entry.id), known));
      const shown = JSON.stringify([
        selected,
        doc.background.concept,
        warnings,
        doc.regions.map((entry) => [entry.id, entry.name, entry.ui, entry.shape.type]),
      ]);
      if (shown !== drawn) {
        drawn = shown;
        const focused = list.contains(document.activeElement)
          ? document.activeElement?.getAttribute("data-focus")
          : null;
        shares.clear();
        list.replaceChildren(
          ...doc.regions.map((entry, n) => row(editor, context, entry, n + 1, shares, warnings[n])).reverse(),
          backgroundRow(editor, context),
        );
        if (focused)
          [...list.querySelectorAll("button")]
            .find((button) => button.dataset.focus === focused)
            ?.focus({ preventScroll: true });
        list.querySelector('[aria-current="true"]')?.scrollIntoView?.({ block: "nearest" });
      }
      for (const entry of doc.regions) {
        const texts = shares.get(entry.id);
        if (!texts) continue;
        const idle = claims(entry) ? "" : t(entry.negative.trim() ? "idle.negative" : "idle");
        const percent = `${Math.round((figures.shares.get(entry.id) ?? 0) * 100)} %`;
        const text = idle || (entry.shape.type === "input" ? "" : percent);
        if (texts.share.textContent !== text) texts.share.textContent = text;
        texts.share.title = idle && t("idle.why");
        if (editor.draft) continue; // nobody listens to every frame of a drag
        const said = describe(editor, entry, t, texts.warn);
        if (texts.heard.textContent !== said) texts.heard.textContent = said;
      }
      hint.hidden = selected !== null;
      region.update();
      background.update();
    },
  };
}

/**
 * What the canvas shows of a region, in words.
 * @param {Editor} editor @param {Region} entry @param {import("./texts.js").Translate} t @param {string} warn
 */
function describe({ size }, entry, t, warn) {
  const { shape, concept, ui } = entry;
  const box = boundsOf(shape);
  const place = t("heard.place", {
    x: Math.round(box.x * size.width),
    y: Math.round(box.y * size.height),
    width: Math.round(box.width * size.width),
    height: Math.round(box.height * size.height),
  });
  const flags = [ui.locked && t("heard.locked"), ui.hidden && t("heard.hidden"), !claims(entry) && t("idle.why")];
  return [t(`shape.${shape.type}`), shape.type !== "input" && place, concept, ...flags, warn]
    .filter(Boolean)
    .join(", ");
}

/**
 * @param {Editor} editor @param {PanelContext} context @param {Region} entry @param {number} number
 * @param {Shares} shares @param {string} warn what is wrong with it
 */
function row(editor, { translate: t }, entry, number, shares, warn) {
  const share = el("span", { className: "mos-share" });
  const heard = el("span", { className: "mos-unseen" });
  shares.set(entry.id, { share, heard, warn });
  const flip = (/** @type {"hidden" | "locked"} */ flag) =>
    editor.edit(entry.id, { ui: { ...entry.ui, [flag]: !entry.ui[flag] } });
  const { hidden, locked } = entry.ui;
  const badge = el("span", { className: "mos-number", textContent: String(number) });
  badge.style.background = colorOf(entry);
  const blamed = editor.blamed?.id === entry.id;
  return el("li", { className: `mos-row${blamed ? " mos-blamed" : ""}`, role: "listitem" }, [
    el(
      "button",
      {
        type: "button",
        className: `mos-pick${hidden ? " mos-dim" : ""}`,
        "data-focus": `pick ${entry.id}`,
        "aria-current": String(entry.id === editor.selected),
        onclick: () => editor.select(entry.id),
      },
      [
        badge,
        el("span", { textContent: entry.name }),
        warn ? el("span", { className: "mos-warn", title: warn, "aria-hidden": "true", textContent: "!" }) : null,
        share,
        heard,
      ],
    ),
    iconButton(hidden ? "hidden" : "eye", t(hidden ? "show" : "hide"), () => flip("hidden"), {
      className: `mos-button mos-small${hidden ? "" : " mos-dim"}`,
      "data-focus": `hide ${entry.id}`,
      "aria-label": `${t(hidden ? "show" : "hide")}: ${entry.name}`,
    }),
    iconButton(locked ? "lock" : "open", t(locked ? "unlock" : "lock"), () => flip("locked"), {
      className: `mos-button mos-small${locked ? "" : " mos-dim"}`,
      "data-focus": `lock ${entry.id}`,
      "aria-label": `${t(locked ? "unlock" : "lock")}: ${entry.name}`,
    }),
  ]);
}

/** @param {Editor} editor @param {PanelContext} context */
function backgroundRow(editor, { translate: t }) {
  const { concept } = editor.doc.background;
  const badge = el("span", { className: "mos-number", textContent: "" });
  badge.style.background = "repeating-linear-gradient(45deg, #8886 0 3px, transparent 3px 6px)";
  return el("li", { className: "mos-row", role: "listitem" }, [
    el(
      "button",
      {
        type: "button",
        className: "mos-pick",
        "data-focus": "pick background",
        "aria-current": String(editor.selected === BACKGROUND),
        onclick: () => editor.select(BACKGROUND),
      },
      [
        badge,
        el("span", { textContent: t("background") }),
        el("span", { className: "mos-share", textContent: concept }),
      ],
    ),
  ]);
}
