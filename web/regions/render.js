/** Draws the canvas: backdrop, regions, overlap, selection, guides. Reads the editor, changes nothing. */

import { decodeRuns } from "./bitmask.js";
import { boundsOf } from "./geometry.js";
import { claims, coarseSize } from "./measure.js";
import { drawBrush, drawCorners, drawCross, drawGuides, drawHandles } from "./overlay.js";
import { rasterize } from "./raster.js";

/**
 * @typedef {import("./view.js").Rect} Rect
 * @typedef {import("./model.js").Region} Region
 * @typedef {{background: string, canvas: string, line: string, text: string, accent: string}} Theme
 * @typedef {{rect: Rect, frame: {width: number, height: number}, scale: number, theme: Theme, touch: boolean,
 *   backdrop: CanvasImageSource | null, masks: Map<number, ImageBitmap>,
 *   figures: import("./measure.js").Figures}} Scene
 */

const BLAMED = "#ff4d4d";

/** Images made from immutable shapes. @type {WeakMap<object, Map<string, HTMLCanvasElement>>} */
const images = new WeakMap();

/** @param {object} owner @param {string} key @param {() => HTMLCanvasElement} make */
function remembered(owner, key, make) {
  const known = images.get(owner) ?? new Map();
  images.set(owner, known);
  const found = known.get(key);
  if (found) return found;
  if (known.size > 3) known.clear();
  const image = make();
  known.set(key, image);
  return image;
}

/** @param {Document} document @param {number} width @param {number} height */
function newCanvas(document, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/**
 * One colour with the given alpha per cell.
 * @param {Document} document @param {string} color @param {number} width @param {number} height
 * @param {Uint8Array} alpha @param {number} top value of full alpha
 */
function tinted(document, color, width, height, alpha, top) {
  const canvas = newCanvas(document, width, height);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const rgb = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  for (let n = 0; n < alpha.length; n += 1) image.data.set([...rgb, (alpha[n] / top) * 255], n * 4);
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * An incoming mask (white, its cover in the alpha channel) in a region's colour.
 * @param {Document} document @param {ImageBitmap} mask @param {string} color
 */
function colored(document, mask, color) {
  return remembered(mask, color, () => {
    const canvas = newCanvas(document, mask.width, mask.height);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.drawImage(mask, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = color;
    pen.fillRect(0, 0, mask.width, mask.height);
    return canvas;
  });
}

/** @param {Region} region */
export const colorOf = (region) => String(region.ui.color ?? "#a3a3b5");

/**
 * Patterns tell regions apart without colour.
 * @param {CanvasRenderingContext2D} context @param {string} color @param {string} name @param {number} scale
 * @returns {CanvasPattern | string}
 */
export function makePattern(context, color, name, scale) {
  const size = Math.max(4, Math.round(10 * scale));
  const tile = newCanvas(context.canvas.ownerDocument, size, size);
  const pen = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = Math.max(1, size / 9);
  pen.beginPath();
  const line = (/** @type {number[]} */ ...[a, b, c, d]) => {
    pen.moveTo(a * size, b * size);
    pen.lineTo(c * size, d * size);
  };
  const slant = (/** @type {1 | -1} */ way) =>
    [-1, 0, 1].forEach((n) => (way > 0 ? line(n, 1, n + 1, 0) : line(n, 0, n + 1, 1)));
  if (name === "diagonal" || name === "cross") slant(1);
  if (name === "back" || name === "cross") slant(-1);
  if (name === "horizontal" || name === "grid") line(0, 0.5, 1, 0.5);
  if (name === "vertical" || name === "grid") line(0.5, 0, 0.5, 1);
  if (name === "dots") pen.arc(size / 2, size / 2, size / 6, 0, 7);
  if (name === "dots") pen.fill();
  else pen.stroke();
  return context.createPattern(tile, "repeat") ?? color;
}

/** @type {WeakMap<CanvasRenderingContext2D, Map<string, CanvasPattern | string>>} */
const patterns = new WeakMap();

/** @param {CanvasRenderingContext2D} context @param {string} color @param {string} name @param {number} scale */
function patternOf(context, color, name, scale) {
  const known = patterns.get(context) ?? new Map();
  patterns.set(context, known);
  const key = `${color} ${name} ${scale}`;
  if (!known.has(key)) {
    if (known.size > 100) known.clear();
    const pattern = makePattern(context, color, name, scale);
    if (typeof pattern !== "string") pattern.setTransform(new DOMMatrix().scale(1 / scale));
    known.set(key, pattern);
  }
  return known.get(key);
}

/** @param {CanvasRenderingContext2D} context @param {import("./model.js").Shape} shape @param {Rect} r */
function tracePath(context, shape, r) {
  context.beginPath();
  if (shape.type === "polygon") {
    for (const [x, y] of shape.points) context.lineTo(r.x + x * r.width, r.y + y * r.height);
    context.closePath();
  } else if (shape.type === "ellipse") {
    const [rx, ry] = [(shape.width * r.width) / 2, (shape.height * r.height) / 2];
    context.ellipse(r.x + shape.x * r.width + rx, r.y + shape.y * r.height + ry, rx, ry, 0, 0, 7);
  } else {
    const box = boundsOf(shape);
    context.rect(r.x + box.x * r.width, r.y + box.y * r.height, box.width * r.width, box.height * r.height);
  }
}

/** @param {CanvasRenderingContext2D} context @param {import("./state.js").Editor} editor @param {Scene} scene */
export function draw(context, editor, scene) {
  const { rect: r, frame, theme } = scene;
  context.setTransform(scene.scale, 0, 0, scene.scale, 0, 0);
  context.clearRect(0, 0, frame.width, frame.height);
  context.fillStyle = theme.canvas;
  context.fillRect(r.x, r.y, r.width, r.height);
  if (scene.backdrop) context.drawImage(scene.backdrop, r.x, r.y, r.width, r.height);
  else drawThirds(context, r, theme);
  context.save();
  context.beginPath();
  context.rect(r.x, r.y, r.width, r.height);
  context.clip();
  const { regions } = editor.doc;
  const before = editor.history.present.doc.regions;
  for (const region of regions)
    if (!region.ui.hidden && region.enabled) drawFill(context, region, scene, editor.doc, before.includes(region));
  if (scene.figures.overlap) drawOverlap(context, scene);
  context.restore();
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.strokeRect(r.x - 0.5, r.y - 0.5, r.width + 1, r.height + 1);
  const seen = regions.filter((region) => !region.ui.hidden);
  for (const region of seen) drawOutline(context, region, scene, editor);
  for (const region of seen) drawLabel(context, region, scene, regions.indexOf(region) + 1);
  drawGuides(context, editor, scene);
  if (editor.corners) drawCorners(context, editor, scene);
  const { region } = editor;
  if (region && !region.ui.locked && !region.ui.hidden && editor.tool === "select") drawHandles(context, region, scene);
  if (editor.cross) drawCross(context, editor.cross, scene);
  if (editor.pointer && (editor.tool === "brush" || editor.tool === "eraser")) drawBrush(context, editor, scene);
}

/** @param {CanvasRenderingContext2D} context @param {Rect} r @param {Theme} theme */
function drawThirds(context, r, theme) {
  context.strokeStyle = theme.line;
  context.globalAlpha = 0.45;
  context.lineWidth = 1;
  context.beginPath();
  for (const part of [1 / 3, 2 / 3]) {
    context.moveTo(r.x + r.width * part, r.y);
    context.lineTo(r.x + r.width * part, r.y + r.height);
    context.moveTo(r.x, r.y + r.height * part);
    context.lineTo(r.x + r.width, r.y + r.height * part);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/**
 * @param {CanvasRenderingContext2D} context @param {Region} region @param {Scene} scene
 * @param {import("./model.js").Doc} doc @param {boolean} still not part of a running gesture
 */
function drawFill(context, region, scene, doc, still) {
  const { rect: r } = scene;
  const { shape } = region;
  const color = colorOf(region);
  const document = context.canvas.ownerDocument;
  const share = claims(region) ? 1 : 0.35; // paler: nothing is said to be there
  context.globalAlpha = share * (0.12 + 0.3 * region.strength);
  if (shape.type === "input") {
    const mask = scene.masks.get(shape.index);
    if (mask) context.drawImage(colored(document, mask, color), r.x, r.y, r.width, r.height);
  } else if (region.feather > 0 && still) {
    const { width, height } = coarseSize(doc);
    const image = remembered(shape, `${color} ${region.feather} ${width}x${height}`, () => {
      const alpha = rasterize(shape, width, height, region.feather) ?? new Uint8Array(width * height);
      return tinted(document, color, width, height, alpha, 255);
    });
    context.drawImage(image, r.x, r.y, r.width, r.height);
  } else if (shape.type === "mask") {
    const image = remembered(shape, color, () => {
      const scale = Math.min(1, 512 / Math.max(shape.width, shape.height));
      const [width, height] = [Math.ceil(shape.width * scale), Math.ceil(shape.height * scale)];
      return tinted(document, color, width, height, decodeRuns(shape, width, height).cells, 1);
    });
    context.imageSmoothingEnabled = false;
    context.drawImage(image, r.x, r.y, r.width, r.height);
    context.imageSmoothingEnabled = true;
  } else {
    tracePath(context, shape, r);
    context.fillStyle = color;
    context.fill();
  }
  if (shape.type !== "mask" && shape.type !== "input") {
    const pattern = patternOf(context, color, String(region.ui.pattern), scene.scale);
    context.globalAlpha = region.ui.pattern === "plain" ? 0 : 0.5 * share;
    tracePath(context, shape, r);
    context.fillStyle = pattern;
    context.fill();
  }
  context.globalAlpha = 1;
}

/**
 * Light hatching where two or more regions lie on one another, on the coarse grid of the figures.
 * @param {CanvasRenderingContext2D} context @param {Scene} scene
 */
function drawOverlap(context, scene) {
  const { rect: r, figures } = scene;
  const { counts, width, height } = figures;
  const [across, down] = [r.width / width, r.height / height];
  context.beginPath();
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const start = x;
      while (x < width && counts[y * width + x] > 1) x += 1;
      if (x > start) context.rect(r.x + start * across, r.y + y * down, (x - start) * across, down);
    }
  }
  context.fillStyle = patternOf(context, "#ffffff", "back", scene.scale);
  context.globalAlpha = 0.55;
  context.fill();
  context.globalAlpha = 1;
}

/**
 * @param {CanvasRenderingContext2D} context @param {Region} region @param {Scene} scene
 * @param {import("./state.js").Editor} editor
 */
function drawOutline(context, region, scene, editor) {
  const { rect: r, theme } = scene;
  const chosen = region.id === editor.selected;
  const color = colorOf(region);
  tracePath(context, region.shape, r);
  if (chosen) {
    context.strokeStyle = "rgba(0, 0, 0, 0.55)";
    context.lineWidth = 4;
    context.stroke();
  }
  context.setLineDash(
    region.ui.locked ? [2, 3] : region.shape.type === "mask" || region.shape.type === "input" ? [6, 4] : [],
  );
  const blamed = editor.blamed?.id === region.id;
  context.globalAlpha = region.enabled || chosen || blamed ? 1 : 0.4;
  context.strokeStyle = blamed ? BLAMED : chosen ? theme.accent : color;
  context.lineWidth = blamed ? 3 : chosen ? 2 : 1.5;
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
}

/**
 * Number and name, above all outlines.
 * @param {CanvasRenderingContext2D} context @param {Region} region @param {Scene} scene @param {number} number
 */
function drawLabel(context, region, { rect: r }, number) {
  const box = boundsOf(region.shape);
  const color = colorOf(region);
  context.font = "600 11px system-ui, sans-serif";
  context.textBaseline = "middle";
  const [left, top] = [Math.max(0, box.x), Math.max(0, box.y)];
  const [right, bottom] = [Math.min(1, box.x + box.width), Math.min(1, box.y + box.height)];
  const shown = fitText(context, region.name, Math.max(0, (right - left) * r.width - 34));
  const width = shown ? context.measureText(shown).width + 8 : 0;
  // In a corner of a box; in the middle of anything else, whose corners are not its own.
  const boxed = region.shape.type === "rect" || region.shape.type === "input";
  const x = boxed ? r.x + left * r.width + 4 : r.x + ((left + right) / 2) * r.width - (18 + width) / 2;
  const y = boxed ? r.y + top * r.height + 4 : r.y + ((top + bottom) / 2) * r.height - 9;
  context.globalAlpha = region.enabled ? 1 : 0.4;
  context.fillStyle = color;
  context.fillRect(x, y, 18, 17);
  context.fillStyle = "rgba(12, 12, 16, 0.82)";
  if (width) context.fillRect(x + 18, y, width, 17);
  context.fillStyle = "#101014";
  context.textAlign = "center";
  context.fillText(String(number), x + 9, y + 9);
  context.textAlign = "left";
  context.fillStyle = "#f4f4f6";
  if (width) context.fillText(shown, x + 22, y + 9);
  context.globalAlpha = 1;
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} room */
function fitText(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let shown = text.slice(0, 60);
  while (shown && context.measureText(`${shown}...`).width > room) shown = shown.slice(0, -1);
  return shown ? `${shown}...` : "";
}
