/** The bar above the canvas: tools, undo, brush, snapping, canvas size, zoom, and the import and export sheet. */

import { el, icon, iconButton, setField } from "./dom.js";
import { RATIOS, SD15_SIZES, SDXL_BUCKETS, withRatio } from "./presets.js";
import { SNAPS, TOOLS } from "./state.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {{translate: import("./texts.js").Translate, resize: (width: number, height: number) => void,
 *   sizeIsFixed: () => boolean,
 *   zoom: (factor: number) => void, importText: (text: string) => boolean, addMask: () => void, focus: () => void}} BarActions
 */

/**
 * @param {Editor} editor @param {BarActions} actions
 * @returns {{bar: HTMLElement, sheet: HTMLElement, update: () => void}}
 */
export function makeToolbar(editor, actions) {
  const t = actions.translate;
  const tools = TOOLS.map((name) =>
    iconButton(
      name,
      t(`tool.${name}`),
      () => {
        editor.use(name);
        actions.focus();
      },
      { "aria-pressed": "false", "data-tool": name },
    ),
  );
  // A text field that keeps the focus (some browsers focus no clicked button) would not show what comes back.
  const travel = (/** @type {() => HTMLElement} */ button, /** @type {() => void} */ run) => {
    if (document.activeElement !== button()) actions.focus();
    run();
  };
  const undo = iconButton("undo", t("undo"), () =>
    travel(
      () => undo,
      () => editor.undo(),
    ),
  );
  const redo = iconButton("redo", t("redo"), () =>
    travel(
      () => redo,
      () => editor.redo(),
    ),
  );
  const brush = el("input", {
    type: "range",
    min: "0.4",
    max: "30",
    step: "0.2",
    "aria-label": t("brushSize"),
    title: t("brushSize"),
    oninput: () => {
      editor.brush = Number(brush.value) / 100;
      editor.notify();
    },
  });
  const snap = el(
    "select",
    {
      "aria-label": t("snap"),
      onchange: () => {
        editor.snap = Number(snap.value);
        editor.notify();
      },
    },
    SNAPS.map((step) => el("option", { value: String(step), textContent: step ? `${step} px` : t("snap.off") })),
  );
  const size = sizeChoice(editor, actions);
  const { sheet, toggle } = makeSheet(editor, actions);
  const more = iconButton("more", t("more"), () => more.setAttribute("aria-expanded", String(toggle())), {
    "aria-expanded": "false",
  });
  const bar = el("div", { className: "mos-bar", role: "toolbar", "aria-label": t("tools") }, [
    el("div", { className: "mos-group" }, tools),
    el("div", { className: "mos-group" }, [undo, redo]),
    brush,
    el("span", { className: "mos-space" }),
    el("label", {}, [t("snap"), snap]),
    size,
    el("div", { className: "mos-group" }, [
      iconButton("minus", t("zoomOut"), () => actions.zoom(0.8)),
      iconButton("fit", t("fit"), () => actions.zoom(0)),
      iconButton("plus", t("zoomIn"), () => actions.zoom(1.25)),
      more,
    ]),
  ]);
  return {
    bar,
    sheet,
    update() {
      for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
      undo.disabled = !editor.history.canUndo;
      redo.disabled = !editor.history.canRedo;
      brush.classList.toggle("mos-away", editor.tool !== "brush" && editor.tool !== "eraser");
      setField(brush, String(editor.brush * 100));
      setField(snap, String(editor.snap));
      size.disabled = actions.sizeIsFixed();
      size.title = size.disabled ? t("size.linked") : t("size");
      size.options[0].textContent = `${editor.size.width} x ${editor.size.height}`;
    },
  };
}

/** @param {Editor} editor @param {BarActions} actions */
function sizeChoice(editor, actions) {
  const t = actions.translate;
  const group = (
    /** @type {string} */ label,
    /** @type {readonly (readonly [number, number])[]} */ list,
    /** @type {string} */ mark,
  ) => {
    const node = el("optgroup", { label });
    node.append(
      ...list.map(([a, b]) => el("option", { value: `${mark} ${a} ${b}`, textContent: `${a} ${mark} ${b}` })),
    );
    return node;
  };
  const select = el(
    "select",
    {
      "aria-label": t("size"),
      onchange: () => {
        const [mark, a, b] = select.value.split(" ");
        select.selectedIndex = 0;
        const { width, height } =
          mark === ":" ? withRatio(editor.size, Number(a), Number(b)) : { width: Number(a), height: Number(b) };
        if (width && height) actions.resize(width, height);
      },
    },
    [
      el("option", { value: "" }),
      group(t("size.ratio"), RATIOS, ":"),
      group(t("size.sd15"), SD15_SIZES, "x"),
      group(t("size.sdxl"), SDXL_BUCKETS, "x"),
    ],
  );
  return select;
}

/** @param {Editor} editor @param {BarActions} actions */
function makeSheet(editor, actions) {
  const t = actions.translate;
  const text = el("textarea", { rows: 6, placeholder: t("import.here"), "aria-label": t("import.here") });
  const take = (/** @type {string} */ value) => {
    if (!actions.importText(value)) return;
    text.value = "";
    sheet.hidden = true;
  };
  const file = el("input", {
    type: "file",
    accept: ".json,.txt",
    "aria-label": t("import.file"),
    onchange: async () => {
      const chosen = file.files?.[0];
      if (chosen) take(await chosen.text());
      file.value = "";
    },
  });
  const sheet = el(
    "div",
    {
      className: "mos-sheet",
      role: "dialog",
      "aria-label": t("more"),
      hidden: true,
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Escape") sheet.hidden = true;
      },
    },
    [
      text,
      el("div", { className: "mos-actions" }, [
        textButton(t("import"), () => take(text.value)),
        el("label", { className: "mos-button mos-text-button" }, [t("import.file"), file]),
        textButton(t("export"), () => download(sheet, editor.value)),
        textButton(t("mask.add"), () => {
          actions.addMask();
          sheet.hidden = true;
        }),
        textButton(t("close"), () => (sheet.hidden = true)),
      ]),
    ],
  );
  return {
    sheet,
    toggle() {
      sheet.hidden = !sheet.hidden;
      if (!sheet.hidden) text.focus({ preventScroll: true });
      return !sheet.hidden;
    },
  };
}

/** @param {string} label @param {() => void} run @param {string} [sign] */
export function textButton(label, run, sign) {
  return el("button", { type: "button", className: "mos-button mos-text-button", onclick: run }, [
    sign ? icon(sign) : null,
    label,
  ]);
}

/** @param {HTMLElement} parent @param {string} text */
function download(parent, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = el("a", { href: url, download: "regions.json", hidden: true });
  parent.append(link);
  link.click();
  link.remove();
  URL.revokeObjectURL(url);
}
