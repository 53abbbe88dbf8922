/** Puts the editor into an element. Knows nothing of ComfyUI: everything it needs comes through `ctx`. */

import { adoptMasks, adoptSelected, waitingMasks } from "./adopt.js";
import { makeCompleter } from "./complete.js";
import { el } from "./dom.js";
import { measure } from "./measure.js";
import { LIMITS, byteLength } from "./model.js";
import { makePanel } from "./panel.js";
import { importText, makeStage } from "./stage.js";
import { Editor } from "./state.js";
import { makeStrip } from "./strip.js";
import { STYLE } from "./style.js";
import { translator } from "./texts.js";
import { makeToolbar } from "./toolbar.js";
import { addRegion, makePaintable } from "./tools.js";

/**
 * What the editor needs from its host.
 * @typedef {object} Context
 * @property {string} value the stored text
 * @property {{width: number, height: number}} size
 * @property {(value: string, final: boolean) => void} change `final` ends a gesture or a visit to a field
 * @property {(width: number, height: number) => void} [resize]
 * @property {() => boolean} [sizeIsFixed]
 * @property {() => import("./panel.js").Concepts} [concepts]
 * @property {Record<string, string>} [texts] translations
 * @property {(listener: (news: News) => void) => () => void} [subscribe]
 * @property {() => import("./strip.js").Backdrop} [backdrop] what lies under the regions
 * @property {(kind: import("./strip.js").Backdrop) => void} [chooseBackdrop] it is to be remembered
 * @property {(root: HTMLElement, back: () => void) => () => void} [popOut] shows `root` large until it is called, or
 *   calls `back`
 * @typedef {{wired?: CanvasImageSource | null, result?: CanvasImageSource | null}} Pictures
 * @typedef {{value?: string, size?: {width: number, height: number}, pictures?: Pictures,
 *   masks?: ImageBitmap[], blame?: string}} News  `blame` is the text of an error, empty when there is none
 */

/** @param {HTMLElement} host @param {Context} ctx @returns {() => void} cleanup */
export function mount(host, ctx) {
  const translate = translator(ctx.texts);
  const editor = new Editor(ctx.value, ctx.size, { changed: ctx.change });
  /** @type {Pictures} */
  const pictures = {};
  const chosen = ctx.backdrop ?? (() => /** @type {const} */ ("wired"));
  const backdrop = () => pictures[/** @type {"wired"} */ (chosen())] ?? null;
  const concepts = ctx.concepts ?? (() => ({ names: [], complete: false }));
  /** @type {Map<number, ImageBitmap>} */
  const masks = new Map();
  const root = el("div", { className: "mos-editor", role: "group", "aria-label": translate("editor") });
  let figures = measure(editor.doc);
  /** @type {unknown} */
  let measured = editor.doc;

  const stage = makeStage(editor, { translate, figures: () => figures, backdrop, masks: () => masks });
  const toolbar = makeToolbar(editor, {
    translate,
    zoom: stage.zoom,
    focus: stage.focus,
    importText: (text) => importText(editor, text),
    resize: (width, height) => ctx.resize?.(width, height),
    sizeIsFixed: () => ctx.sizeIsFixed?.() ?? !ctx.resize,
    addMask: () => {
      const taken = editor.doc.regions.map(({ shape }) => (shape.type === "input" ? shape.index : -1));
      let index = 0;
      while (taken.includes(index)) index += 1;
      addRegion(editor, { type: "input", index }, { name: translate("input.label", { index }) });
    },
  });
  const complete = makeCompleter(root, translate);
  const panel = makePanel(editor, {
    translate,
    concepts,
    complete,
    adoptable: ({ shape }) => shape.type === "input" && masks.has(shape.index),
    paintable: () =>
      editor.region?.shape.type === "input"
        ? adoptSelected(editor, masks)
        : editor.region && makePaintable(editor, editor.region),
  });
  /** @type {(() => void) | null} */
  let bringBack = null;
  const popIn = () => {
    bringBack?.();
    bringBack = null;
    stage.focus();
    schedule();
  };
  const strip = makeStrip(editor, {
    translate,
    concepts,
    focus: stage.focus,
    pointOf: stage.pointOf,
    waiting: () => waitingMasks(editor, masks).length,
    adopt: () => adoptMasks(editor, masks, (index) => ({ name: translate("input.label", { index }) })),
    backdrop: chosen,
    chooseBackdrop(kind) {
      ctx.chooseBackdrop?.(kind);
      schedule();
    },
    isOut: () => bringBack !== null,
    popOut:
      ctx.popOut &&
      (() => {
        if (bringBack) return popIn();
        bringBack = ctx.popOut?.(root, popIn) ?? null;
        stage.focus();
        schedule();
      }),
  });
  const notes = el("div", { className: "mos-notes", role: "alert", hidden: true });
  const fill = el("i");
  const figuresText = el("span");
  const bytes = el("span");
  const say = el("span", { className: "mos-say", role: "status", "aria-live": "polite" });
  const foot = el("div", { className: "mos-foot" }, [
    say,
    figuresText,
    el("span", { className: "mos-meter", "aria-hidden": "true" }, [fill]),
    bytes,
  ]);
  root.append(
    el("style", { textContent: STYLE }),
    el("div", { className: "mos-frame" }, [
      el("div", {}, [toolbar.bar, strip.root, notes]),
      el("div", { className: "mos-main" }, [stage.root, panel.panel]),
      foot,
    ]),
    toolbar.sheet,
  );

  let frame = 0;
  let notesShown = "";
  const update = () => {
    frame = 0;
    if (measured !== editor.doc) {
      measured = editor.doc;
      figures = measure(editor.doc);
    }
    stage.draw();
    toolbar.update();
    strip.update();
    panel.update(figures);
    const percent = (/** @type {number} */ part) => Math.round(part * 100);
    fill.style.width = `${percent(figures.covered)}%`;
    setText(
      figuresText,
      translate("meter", { covered: percent(figures.covered) }) +
        (figures.overlap
          ? ` \u00b7 ${translate("meter.overlap", { overlap: Math.max(1, percent(figures.overlap)) })}`
          : ""),
    );
    setText(
      bytes,
      translate("meter.bytes", { used: (byteLength(editor.value) / 1024).toFixed(1), limit: LIMITS.bytes / 1024 }),
    );
    const message = editor.message ? translate(...editor.message) : hint(editor, translate);
    setText(say, editor.blamed?.text ?? message);
    const { stretched } = editor;
    const texts = [...editor.notes.slice(0, 50), ...(stretched ? [stretched] : [])].map((note) => translate(...note));
    if (notesShown !== texts.join("\n")) {
      notesShown = texts.join("\n");
      notes.hidden = texts.length === 0;
      notes.replaceChildren(
        editor.notes.length ? el("strong", { textContent: translate("note.title") }) : "",
        el(
          "ul",
          {},
          texts.map((textContent) => el("li", { textContent })),
        ),
      );
    }
  };
  const schedule = () => {
    if (!frame) frame = requestAnimationFrame(update);
  };
  editor.listeners.add(schedule);

  for (const name of ["keydown", "keyup"]) {
    root.addEventListener(name, (event) => {
      const { key, ctrlKey, metaKey } = /** @type {KeyboardEvent} */ (event);
      if (bringBack && name === "keydown" && key === "Escape" && !event.defaultPrevented) popIn();
      if (!((ctrlKey || metaKey) && ["Enter", "s", "o"].includes(key))) event.stopPropagation();
    });
  }
  for (const name of ["copy", "cut", "paste", "dblclick"])
    root.addEventListener(name, (event) => event.stopPropagation());
  root.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  for (const name of ["pointerenter", "focusin"]) root.addEventListener(name, schedule); // the graph may be another
  host.append(root);
  const observer = new ResizeObserver(schedule);
  observer.observe(stage.root);
  const unsubscribe = ctx.subscribe?.((news) => {
    if (news.value !== undefined && news.value !== editor.value) editor.load(news.value);
    if (news.size) editor.resize(news.size);
    if (news.blame !== undefined) editor.blame(news.blame);
    Object.assign(pictures, news.pictures);
    if (news.masks) {
      masks.clear();
      news.masks.forEach((mask, index) => masks.set(index, mask));
    }
    schedule();
  });
  schedule();
  return () => {
    unsubscribe?.();
    bringBack?.();
    observer.disconnect();
    editor.listeners.clear();
    if (frame) cancelAnimationFrame(frame);
    root.remove();
  };
}

/** @param {HTMLElement} node @param {string} text */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Editor} editor @param {import("./texts.js").Translate} translate */
function hint(editor, translate) {
  if (editor.tool !== "brush") return translate(`hint.${editor.tool}`);
  return editor.region?.shape.type === "mask"
    ? translate("hint.brush", { name: editor.region.name })
    : translate("hint.brush.new");
}
