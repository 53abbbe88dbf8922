/** Brushed areas: run-length coding, stamping strokes, resampling. A grid is a Uint8Array of 0 and 1, row by row. */

/** @typedef {import("./model.js").MaskShape} MaskShape */
/** @typedef {{width: number, height: number, cells: Uint8Array}} Grid */

export const LONG_SIDE = 256;

/**
 * Cells of about the same width and height as pixels, at most 256 along the long side.
 * @param {number} width @param {number} height
 */
export function gridSize(width, height) {
  const scale = Math.min(1, LONG_SIDE / Math.max(width, height));
  return { width: Math.max(8, Math.round(width * scale)), height: Math.max(8, Math.round(height * scale)) };
}

/** @param {Grid} grid @returns {MaskShape} */
export function encodeRuns(grid) {
  /** @type {number[]} */
  const runs = [];
  let value = 0;
  let length = 0;
  for (const cell of grid.cells) {
    if (cell === value) length += 1;
    else {
      runs.push(length);
      value = cell;
      length = 1;
    }
  }
  runs.push(length);
  return { type: "mask", width: grid.width, height: grid.height, runs };
}

/**
 * The mask sampled at the cell centres of a grid of the wanted size.
 * @param {MaskShape} shape @param {number} [width] @param {number} [height] @returns {Grid}
 */
export function decodeRuns(shape, width = shape.width, height = shape.height) {
  const cells = new Uint8Array(width * height);
  const columns = Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * shape.width) / width));
  let run = 0;
  let end = shape.runs[0] ?? 0;
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * shape.height) / height) * shape.width;
    while (run > 0 && end - shape.runs[run] > row) end -= shape.runs[run--];
    for (let x = 0; x < width; x += 1) {
      const at = row + columns[x];
      while (at >= end && run + 1 < shape.runs.length) end += shape.runs[++run];
      cells[y * width + x] = run & 1;
    }
  }
  return { width, height, cells };
}

/** @param {Grid} grid */
export const isEmpty = (grid) => !grid.cells.includes(1);

/**
 * Sets or clears a disc swept from one point to another. Points and radius are in cells.
 * @param {Grid} grid @param {[number, number]} from @param {[number, number]} to @param {number} radius
 * @param {0 | 1} value
 */
export function stroke(grid, from, to, radius, value) {
  const [x1, y1] = from;
  const [dx, dy] = [to[0] - x1, to[1] - y1];
  const length = dx * dx + dy * dy;
  const left = Math.max(0, Math.floor(Math.min(x1, to[0]) - radius));
  const right = Math.min(grid.width - 1, Math.ceil(Math.max(x1, to[0]) + radius));
  const top = Math.max(0, Math.floor(Math.min(y1, to[1]) - radius));
  const bottom = Math.min(grid.height - 1, Math.ceil(Math.max(y1, to[1]) + radius));
  for (let y = top; y <= bottom; y += 1) {
    for (let x = left; x <= right; x += 1) {
      const [px, py] = [x + 0.5 - x1, y + 0.5 - y1];
      const t = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      const [ex, ey] = [px - t * dx, py - t * dy];
      if (ex * ex + ey * ey <= radius * radius) grid.cells[y * grid.width + x] = value;
    }
  }
}

/** Bounding box in fractions of the canvas. @param {MaskShape} shape */
export function maskBounds(shape) {
  let [left, top, right, bottom] = [shape.width, shape.height, 0, 0];
  let at = 0;
  shape.runs.forEach((run, n) => {
    if (n % 2 && run) {
      const [y1, y2] = [Math.floor(at / shape.width), Math.floor((at + run - 1) / shape.width)];
      const whole = y1 !== y2;
      left = Math.min(left, whole ? 0 : at % shape.width);
      right = Math.max(right, whole ? shape.width : ((at + run - 1) % shape.width) + 1);
      top = Math.min(top, y1);
      bottom = Math.max(bottom, y2 + 1);
    }
    at += run;
  });
  return {
    x: left / shape.width,
    y: top / shape.height,
    width: (right - left) / shape.width,
    height: (bottom - top) / shape.height,
  };
}

/**
 * The part inside one box redrawn inside another (boxes in fractions of the canvas); what leaves the canvas is lost.
 * @param {MaskShape} shape @param {{x: number, y: number, width: number, height: number}} from
 * @param {{x: number, y: number, width: number, height: number}} to @returns {MaskShape}
 */
export function redrawMask(shape, from, to) {
  const source = decodeRuns(shape);
  const cells = new Uint8Array(source.cells.length);
  const columns = Array.from({ length: source.width }, (_, x) => {
    const u = ((x + 0.5) / source.width - to.x) / to.width;
    return u < 0 || u >= 1 ? -1 : Math.floor((from.x + u * from.width) * source.width + 1e-9);
  });
  for (let y = 0; y < source.height; y += 1) {
    const v = ((y + 0.5) / source.height - to.y) / to.height;
    if (v < 0 || v >= 1) continue;
    const row = Math.min(source.height - 1, Math.floor((from.y + v * from.height) * source.height + 1e-9));
    for (let x = 0; x < source.width; x += 1) {
      const column = columns[x];
      if (column >= 0)
        cells[y * source.width + x] = source.cells[row * source.width + Math.min(source.width - 1, column)];
    }
  }
  return encodeRuns({ width: source.width, height: source.height, cells });
}
