/** What lies above the regions while somebody works: handles, guides, the polygon being drawn, crosshair and brush. */

import { allHandles } from "./tools.js";

/**
 * @typedef {import("./render.js").Region} Region
 * @typedef {import("./render.js").Scene} Scene
 */

/** @param {CanvasRenderingContext2D} context @param {Region} region @param {Scene} scene */
export function drawHandles(context, region, scene) {
  const { rect: r, theme } = scene;
  for (const { id, x, y } of allHandles(region.shape)) {
    const middle = id[0] === "m";
    const size = (scene.touch ? 7 : 4) - (middle ? 1.5 : 0);
    context.beginPath();
    if (region.shape.type === "polygon") context.arc(r.x + x * r.width, r.y + y * r.height, size, 0, 7);
    else context.rect(r.x + x * r.width - size, r.y + y * r.height - size, 2 * size, 2 * size);
    context.fillStyle = middle ? theme.accent : "#ffffff";
    context.strokeStyle = middle ? "#ffffff" : theme.accent;
    context.lineWidth = 1.5;
    context.globalAlpha = middle ? 0.7 : 1;
    context.fill();
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** @param {CanvasRenderingContext2D} context @param {import("./state.js").Editor} editor @param {Scene} scene */
export function drawGuides(context, editor, { rect: r, theme }) {
  context.strokeStyle = theme.accent;
  context.lineWidth = 1;
  for (const { axis, at } of editor.draft?.guides ?? []) {
    context.beginPath();
    context.moveTo(axis === "x" ? r.x + at * r.width : r.x, axis === "x" ? r.y : r.y + at * r.height);
    context.lineTo(
      axis === "x" ? r.x + at * r.width : r.x + r.width,
      axis === "x" ? r.y + r.height : r.y + at * r.height,
    );
    context.stroke();
  }
}

/** @param {CanvasRenderingContext2D} context @param {import("./state.js").Editor} editor @param {Scene} scene */
export function drawCorners(context, editor, { rect: r, theme, touch }) {
  const corners = editor.corners ?? [];
  context.beginPath();
  for (const { x, y } of corners) context.lineTo(r.x + x * r.width, r.y + y * r.height);
  if (editor.pointer) context.lineTo(r.x + editor.pointer.x * r.width, r.y + editor.pointer.y * r.height);
  context.strokeStyle = theme.accent;
  context.lineWidth = 2;
  context.stroke();
  corners.forEach(({ x, y }, n) => {
    context.beginPath();
    context.arc(r.x + x * r.width, r.y + y * r.height, n || corners.length < 3 ? 4 : touch ? 12 : 7, 0, 7);
    context.fillStyle = n || corners.length < 3 ? theme.accent : "#ffffff";
    context.fill();
    context.stroke();
  });
}

/** @param {CanvasRenderingContext2D} context @param {import("./geometry.js").Point} at @param {Scene} scene */
export function drawCross(context, at, { rect: r, theme }) {
  const [x, y] = [r.x + at.x * r.width, r.y + at.y * r.height];
  context.beginPath();
  context.moveTo(x - 12, y);
  context.lineTo(x + 12, y);
  context.moveTo(x, y - 12);
  context.lineTo(x, y + 12);
  context.strokeStyle = theme.accent;
  context.lineWidth = 2;
  context.stroke();
}

/** @param {CanvasRenderingContext2D} context @param {import("./state.js").Editor} editor @param {Scene} scene */
export function drawBrush(context, editor, { rect: r }) {
  const { x, y } = /** @type {{x: number, y: number}} */ (editor.pointer);
  for (const [color, width] of /** @type {const} */ ([
    ["rgba(0, 0, 0, 0.7)", 3],
    ["#ffffff", 1.5],
  ])) {
    context.beginPath();
    context.arc(r.x + x * r.width, r.y + y * r.height, editor.brush * Math.min(r.width, r.height), 0, 7);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}
