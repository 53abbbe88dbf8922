/** The list of regions, which mirrors the canvas: the upper ones first, dragged into another order. */

import { el, iconButton, thumbnail } from "./dom.js";
import { watchDrags } from "./dragging.js";
import { isUnknown, pictureOf, unknownText } from "./fields.js";
import { boundsOf } from "./geometry.js";
import { claims, lostTokens } from "./measure.js";
import { moveRegion } from "./model.js";
import { colorOf } from "./render.js";
import { BACKGROUND } from "./state.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./model.js").Region} Region
 * @typedef {import("./panel.js").Concepts} Concepts
 * @typedef {import("./panel.js").PanelContext} PanelContext
 * @typedef {Map<string, {share: HTMLElement, heard: HTMLElement, warn: string}>} Shares
 */

/**
 * @param {Editor} editor @param {PanelContext} context
 * @returns {{root: HTMLElement, update: (figures: import("./measure.js").Figures) => void}}
 */
export function makeList(editor, context) {
  const t = context.translate;
  const list = el("ul", { className: "mos-list", role: "list", "aria-label": t("regions") });
  watchDrags(list, (press) => dragRow(editor, list, press));
  let drawn = "";
  /** @type {Shares} */
  const shares = new Map();
  /** What is wrong with a region. @param {Region} entry @param {number | undefined} share @param {Concepts} known */
  const warning = (entry, share, known) => {
    if (editor.blamed?.id === entry.id) return editor.blamed.text;
    if (!entry.enabled) return "";
    if (isUnknown(entry.concept, known)) return unknownText(t, known);
    if (entry.shape.type === "input") return "";
    if (share === 0) return t("warn.tiny");
    const lost = lostTokens(editor.doc, entry);
    return lost.length ? t("warn.small", { pixels: lost.join(", ") }) : "";
  };

  return {
    root: list,
    update(figures) {
      const { doc, selected } = editor;
      const known = context.concepts();
      const warnings = doc.regions.map((entry) => warning(entry, figures.shares.get(entry.id), known));
      const shown = JSON.stringify([
        selected,
        doc.background.concept,
        warnings,
        doc.regions.map((entry) => [entry.id, entry.name, entry.ui, entry.shape.type, entry.enabled]),
        doc.regions.map((entry) => pictureOf(entry.concept, known)),
        pictureOf(doc.background.concept, known),
      ]);
      if (shown !== drawn) {
        drawn = shown;
        const focused = list.contains(document.activeElement)
          ? document.activeElement?.getAttribute("data-focus")
          : null;
        shares.clear();
        list.replaceChildren(
          ...doc.regions.map((entry, n) => row(editor, context, entry, n + 1, shares, warnings[n], known)).reverse(),
          backgroundRow(editor, context, known),
        );
        if (focused)
          /** @type {HTMLElement[]} */ ([...list.querySelectorAll("[data-focus]")])
            .find((control) => control.dataset.focus === focused)
            ?.focus({ preventScroll: true });
        list.querySelector('[aria-current="true"]')?.scrollIntoView?.({ block: "nearest" });
      }
      for (const entry of doc.regions) {
        const texts = shares.get(entry.id);
        if (!texts) continue;
        const idle = claims(entry) ? "" : t(idleKey(entry));
        const percent = `${Math.round((figures.shares.get(entry.id) ?? 0) * 100)} %`;
        const text = idle || (entry.shape.type === "input" ? "" : percent);
        if (texts.share.textContent !== text) texts.share.textContent = text;
        texts.share.title = idle && entry.enabled ? t("idle.why") : "";
        if (editor.draft) continue; // nobody listens to every frame of a drag
        const said = describe(editor, entry, t, texts.warn);
        if (texts.heard.textContent !== said) texts.heard.textContent = said;
      }
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
  const flags = [
    ui.locked && t("heard.locked"),
    ui.hidden && t("heard.hidden"),
    !claims(entry) && t(entry.enabled ? "idle.why" : "off"),
  ];
  return [t(`shape.${shape.type}`), shape.type !== "input" && place, concept, ...flags, warn]
    .filter(Boolean)
    .join(", ");
}

/**
 * @param {Editor} editor @param {PanelContext} context @param {Region} entry @param {number} number
 * @param {Shares} shares @param {string} warn what is wrong with it @param {Concepts} known
 */
function row(editor, { translate: t }, entry, number, shares, warn, known) {
  const share = el("span", { className: "mos-share" });
  const heard = el("span", { className: "mos-unseen" });
  shares.set(entry.id, { share, heard, warn });
  const flip = (/** @type {"hidden" | "locked"} */ flag) =>
    editor.edit(entry.id, { ui: { ...entry.ui, [flag]: !entry.ui[flag] } });
  const { hidden, locked } = entry.ui;
  const badge = el("span", { className: "mos-number", textContent: String(number) });
  badge.style.background = colorOf(entry);
  const blamed = editor.blamed?.id === entry.id;
  return el("li", { className: `mos-row${blamed ? " mos-blamed" : ""}`, role: "listitem", "data-region": entry.id }, [
    el("input", {
      type: "checkbox",
      checked: entry.enabled,
      title: t("enabled"),
      "aria-label": `${t("enabled")}: ${entry.name}`,
      "data-focus": `on ${entry.id}`,
      onchange: () => editor.edit(entry.id, { enabled: !entry.enabled }),
    }),
    el(
      "button",
      {
        type: "button",
        className: `mos-pick${hidden || !entry.enabled ? " mos-dim" : ""}`,
        "data-focus": `pick ${entry.id}`,
        "aria-current": String(entry.id === editor.selected),
        onclick: () => editor.select(entry.id),
      },
      [
        badge,
        el("span", { className: "mos-name", textContent: entry.name }),
        thumbnail(pictureOf(entry.concept, known)),
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

/** Why it takes no place. @param {Region} region */
const idleKey = ({ enabled, negative }) => (!enabled ? "off" : negative.trim() ? "idle.negative" : "idle");

/** @param {Editor} editor @param {PanelContext} context @param {Concepts} known */
function backgroundRow(editor, { translate: t }, known) {
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
        el("span", { className: "mos-name", textContent: t("background") }),
        thumbnail(pictureOf(concept, known)),
        el("span", { className: "mos-share", textContent: concept }),
      ],
    ),
  ]);
}

/**
 * Drags a row to another place; with a finger by its number, so that the list still scrolls.
 * @param {Editor} editor @param {HTMLElement} list @param {PointerEvent} press @returns {import("./dragging.js").Drag | null}
 */
function dragRow(editor, list, press) {
  const pressed = /** @type {HTMLElement} */ (press.target);
  const row = /** @type {HTMLElement | null} */ (
    pressed.closest(press.pointerType === "touch" ? ".mos-number" : ".mos-pick")?.closest("[data-region]")
  );
  if (!row) return null;
  const id = row.dataset.region ?? "";
  const rows = () => /** @type {HTMLElement[]} */ ([...list.querySelectorAll("[data-region]")]);
  /** How many rows lie above the pointer. @param {PointerEvent} at */
  const above = (at) =>
    rows().filter((other) => {
      const box = other.getBoundingClientRect();
      return at.clientY > box.top + box.height / 2;
    }).length;
  const clear = () => rows().forEach((other) => other.classList.remove("mos-before", "mos-after", "mos-dragged"));
  return {
    move(at) {
      clear();
      row.classList.add("mos-dragged");
      const [all, place] = [rows(), above(at)];
      all[place]?.classList.add("mos-before");
      if (place === all.length) all.at(-1)?.classList.add("mos-after");
    },
    end(at) {
      clear();
      if (!at) return;
      const from = rows().findIndex((other) => other.dataset.region === id);
      const place = above(at) - (above(at) > from ? 1 : 0);
      editor.commit(moveRegion(editor.doc, id, editor.doc.regions.length - 1 - place), { selected: id });
    },
  };
}
