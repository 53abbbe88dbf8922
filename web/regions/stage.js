/** The drawing surface: pointers, wheel, keys and clipboard of the canvas, and redrawing at most once per frame. */

import { el } from "./dom.js";
import { dropCrosshair } from "./crosshair.js";
import { addRegions, copyText, readPaste } from "./interop.js";
import { handleKey, removeSelected } from "./keys.js";
import { draw } from "./render.js";
import { begin } from "./tools.js";
import { canvasRect, keepVisible, zoomAt } from "./view.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {{translate: import("./texts.js").Translate, figures: () => import("./measure.js").Figures,
 *   backdrop: () => CanvasImageSource | null, masks: () => Map<number, ImageBitmap>}} StageContext
 */

const PULL = 6;
const REACH = { mouse: 7, pen: 12, touch: 22 };

/** @param {Editor} editor @param {StageContext} context */
export function makeStage(editor, context) {
  const t = context.translate;
  const canvas = el("canvas", {});
  // Focus goes to a text area, not to a plain element: ComfyUI takes Ctrl+Z for itself everywhere else.
  const proxy = el("textarea", {
    className: "mos-proxy",
    rows: 1,
    inputMode: "none",
    "aria-label": t("canvas.help"),
    autocomplete: "off",
    spellcheck: false,
    tabIndex: 0,
  });
  const empty = el("div", { className: "mos-empty", textContent: t("empty") });
  const root = el("div", { className: "mos-stage", "data-capture-wheel": "true" }, [
    canvas,
    proxy,
    el("div", { className: "mos-ring" }),
    empty,
  ]);
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const theme = readTheme(root);
  /** @type {import("./tools.js").Gesture | null} */
  let gesture = null;
  /** @type {Map<number, {x: number, y: number}>} */
  const pointers = new Map();
  let space = false;
  let touch = false;
  let panning = false;

  const frame = () => ({ width: root.clientWidth || 1, height: root.clientHeight || 1 });
  const rect = () => canvasRect(frame(), editor.size, editor.view);

  /** Position in the frame, whatever the host zooms. @param {MouseEvent} event */
  const local = (event) => {
    const seen = root.getBoundingClientRect();
    const { width, height } = frame();
    return {
      x: ((event.clientX - seen.left) * width) / (seen.width || 1),
      y: ((event.clientY - seen.top) * height) / (seen.height || 1),
    };
  };

  /** @param {PointerEvent} event @returns {import("./tools.js").Press} */
  const press = (event) => {
    const at = local(event);
    const r = rect();
    const reach = REACH[/** @type {"mouse"} */ (event.pointerType)] ?? REACH.mouse;
    return {
      x: (at.x - r.x) / r.width,
      y: (at.y - r.y) / r.height,
      reach: { x: reach / r.width, y: reach / r.height },
      pull: { x: PULL / r.width, y: PULL / r.height },
      shift: event.shiftKey,
      alt: event.altKey,
      free: event.ctrlKey || event.metaKey,
      pressure: event.pointerType === "pen" ? 0.3 + 0.7 * event.pressure : 1,
    };
  };

  const stop = () => {
    const running = gesture !== null || editor.corners !== null;
    gesture = null;
    panning = false;
    if (running) editor.cancel();
    return running;
  };

  /** @param {number} factor 0 fits the canvas @param {{x: number, y: number}} [at] */
  const zoom = (factor, at = { x: frame().width / 2, y: frame().height / 2 }) => {
    editor.view = factor ? zoomAt(frame(), editor.size, editor.view, factor, at.x, at.y) : { zoom: 1, x: 0, y: 0 };
    editor.notify();
  };

  /** @param {{x: number, y: number}[]} points */
  const spread = ([a, b]) => ({
    x: (a.x + b.x) / 2,
    y: (a.y + b.y) / 2,
    length: Math.hypot(a.x - b.x, a.y - b.y) || 1,
  });

  const listeners = {
    /** @param {PointerEvent} event */
    pointerdown(event) {
      if (event.button === 1) return; // the host pans with it
      event.stopPropagation(); // but never preventDefault: the host takes its undo snapshot on the mouseup that follows
      if (event.button !== 0) return;
      proxy.focus({ preventScroll: true });
      dropCrosshair(editor);
      canvas.setPointerCapture?.(event.pointerId);
      touch = event.pointerType === "touch";
      pointers.set(event.pointerId, local(event));
      const at = press(event);
      editor.pointer = at;
      if (pointers.size === 2) {
        stop();
        panning = true;
      } else if (space || editor.tool === "hand") panning = true;
      else if (!gesture) gesture = begin(editor, at);
      editor.notify();
    },
    /** @param {PointerEvent} event */
    pointermove(event) {
      const before = [...pointers.values()];
      const at = local(event);
      const point = press(event);
      if (!editor.held) editor.cross = null;
      editor.pointer = editor.cross ?? point;
      if (pointers.has(event.pointerId)) {
        event.stopPropagation();
        const last = pointers.get(event.pointerId) ?? at;
        pointers.set(event.pointerId, at);
        if (panning && pointers.size === 2) {
          const [was, now] = [spread(before), spread([...pointers.values()])];
          editor.view = { ...editor.view, x: editor.view.x + now.x - was.x, y: editor.view.y + now.y - was.y };
          return zoom(now.length / was.length, now);
        }
        if (panning)
          editor.view = keepVisible(frame(), editor.size, {
            ...editor.view,
            x: editor.view.x + at.x - last.x,
            y: editor.view.y + at.y - last.y,
          });
        else gesture?.move(point);
      }
      editor.notify();
    },
    /** @param {PointerEvent} event */
    pointerup(event) {
      if (!pointers.delete(event.pointerId)) return;
      const ended = gesture;
      gesture = null;
      if (pointers.size === 0) panning = false;
      ended?.end(press(event));
      editor.notify();
    },
    /** @param {PointerEvent} event */
    pointercancel(event) {
      pointers.delete(event.pointerId);
      if (pointers.size === 0) panning = false;
      stop();
      editor.notify();
    },
    pointerleave() {
      editor.pointer = editor.cross;
      editor.notify();
    },
    /** Keeps the focus on the proxy. @param {MouseEvent} event */
    mousedown: (event) => event.button === 0 && event.preventDefault(),
    /** @param {MouseEvent} event */
    contextmenu(event) {
      event.preventDefault();
      event.stopPropagation();
    },
    /** @param {WheelEvent} event */
    wheel(event) {
      if (!root.contains(document.activeElement)) return; // without focus the graph zooms, as anywhere else
      event.preventDefault();
      event.stopPropagation();
      zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 120 : 500)), local(event));
    },
  };
  for (const [name, listener] of Object.entries(listeners))
    canvas.addEventListener(name, /** @type {EventListener} */ (listener), { passive: false });

  proxy.addEventListener("keydown", (event) => {
    if (event.key === " ") space = true;
    const ours = event.key === " " || handleKey(editor, event, { escape: stop, zoom });
    if (!ours) return;
    event.preventDefault();
    event.stopPropagation();
  });
  proxy.addEventListener("keyup", (event) => {
    if (event.key === " ") space = false;
    if (event.key.startsWith("Arrow")) editor.settle();
  });
  proxy.addEventListener("input", () => (proxy.value = ""));
  proxy.addEventListener("blur", () => {
    space = false;
    dropCrosshair(editor);
    editor.settle();
  });
  for (const kind of /** @type {const} */ (["copy", "cut"])) {
    proxy.addEventListener(kind, (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (!editor.region) return;
      const { name } = editor.region;
      event.clipboardData?.setData("text/plain", copyText(editor.doc, editor.region));
      if (kind === "cut") removeSelected(editor);
      else editor.say("say.copied", { name });
    });
  }
  proxy.addEventListener("paste", (event) => {
    event.preventDefault();
    event.stopPropagation();
    importText(editor, event.clipboardData?.getData("text/plain") ?? "");
  });

  return {
    root,
    /** Where on the canvas, null outside the frame. @param {PointerEvent} event */
    pointOf(event) {
      const [at, r, { width, height }] = [local(event), rect(), frame()];
      if (at.x < 0 || at.y < 0 || at.x > width || at.y > height) return null;
      return { x: (at.x - r.x) / r.width, y: (at.y - r.y) / r.height };
    },
    focus: () => proxy.focus({ preventScroll: true }),
    zoom,
    draw() {
      const { width, height } = frame();
      const seen = canvas.getBoundingClientRect();
      const ratio = (globalThis.devicePixelRatio || 1) * ((seen.width || width) / width);
      const scale = Math.min(Math.max(ratio, 0.5), 4, 4096 / Math.max(width, height));
      const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
      const { regions } = editor.doc;
      empty.hidden = regions.length > 0 || editor.corners !== null;
      canvas.style.cursor = {
        select: "default",
        hand: "grab",
        brush: "none",
        eraser: "none",
        rect: "crosshair",
        ellipse: "crosshair",
        polygon: "crosshair",
      }[editor.tool];
      draw(pen, editor, {
        rect: rect(),
        frame: { width, height },
        scale,
        theme: theme(),
        touch,
        backdrop: context.backdrop(),
        masks: context.masks(),
        figures: context.figures(),
      });
    },
  };
}

/**
 * Reads pasted or imported text; a whole document replaces the present one.
 * @param {Editor} editor @param {string} text
 */
export function importText(editor, text) {
  const pasted = readPaste(text, editor.doc);
  if (pasted.kind === "none") {
    editor.say("say.notPasted");
    return false;
  }
  if (pasted.kind === "document") {
    editor.commit({ ...pasted.doc, ...editor.size }, { selected: null });
    editor.notes = pasted.notes;
    editor.say("say.imported", { count: pasted.doc.regions.length });
    return true;
  }
  const { doc, added } = addRegions(editor.doc, pasted.regions);
  if (added.length) editor.commit(doc, { selected: added[added.length - 1].id });
  editor.say("say.pasted", { count: added.length });
  return true;
}

/** The host's colours, read again only when the class or style of the page changes. @param {HTMLElement} root */
function readTheme(root) {
  let key = "";
  /** @type {import("./render.js").Theme} */
  let theme = { background: "#222", canvas: "#1c1c20", line: "#555", text: "#ddd", accent: "#3b9cf0" };
  return () => {
    const page = document.documentElement;
    const now = `${root.isConnected} ${page.className} ${page.style.length} ${page.style.getPropertyValue("--comfy-input-bg")}`;
    if (now !== key) {
      key = now;
      const style = getComputedStyle(root);
      const read = (/** @type {string} */ name, /** @type {string} */ otherwise) =>
        style.getPropertyValue(name).trim() || otherwise;
      theme = {
        background: read("--mos-panel", theme.background),
        canvas: read("--mos-canvas", theme.canvas),
        line: read("--mos-line", theme.line),
        text: read("--mos-text", theme.text),
        accent: read("--mos-accent", theme.accent),
      };
    }
    return theme;
  };
}
