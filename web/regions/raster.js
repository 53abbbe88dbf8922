/**
 * From shapes to uint8 masks, bit for bit what mixofshow_core/regional/raster.py makes: float64 with + - x / and
 * square root only, 4x4 samples per pixel, a linear ramp over the Euclidean distance for feathered edges, half rounded
 * up. tests/golden/regions_raster.json holds both sides to it; change neither alone.
 */

/** @typedef {import("./model.js").Shape} Shape */
/** @typedef {import("./model.js").BoxShape} BoxShape */
/** @typedef {import("./model.js").PolygonShape} PolygonShape */
/** @typedef {(x: number, y: number) => number} Field */

const SAMPLES = 4;
const FAR_AWAY = 1.0e9;
const ELLIPSE_STEPS = 4;

/**
 * One shape as uint8, row by row. `feather` is the width of the ramp as a fraction of the shorter side.
 * An `input` shape has no drawing here: null.
 * @param {Shape} shape @param {number} width @param {number} height @param {number} [feather]
 * @returns {Uint8Array | null}
 */
export function rasterize(shape, width, height, feather = 0) {
  if (shape.type === "input") return null;
  const ramp = feather * Math.min(width, height);
  if (shape.type === "mask") {
    const hits = maskHits(shape, width, height);
    return ramp
      ? featherPixels(
          hits.map((n) => Number(2 * n >= SAMPLES * SAMPLES)),
          width,
          height,
          ramp,
        )
      : toBytes(hits);
  }
  const inside = insideTest(shape, width, height);
  return ramp
    ? featherShape(inside, distanceTo(shape, width, height), width, height, ramp)
    : toBytes(countHits(inside, width, height));
}

/** @returns {[number, number][]} */
function offsets() {
  /** @type {[number, number][]} */
  const list = [];
  for (let j = 0; j < SAMPLES; j += 1)
    for (let i = 0; i < SAMPLES; i += 1) list.push([(i + 0.5) / SAMPLES, (j + 0.5) / SAMPLES]);
  return list;
}

/** @param {number} total */
const toByte = (total) => Math.floor((total / (SAMPLES * SAMPLES)) * 255 + 0.5);

/** @param {Float64Array | Uint8Array} totals */
const toBytes = (totals) => Uint8Array.from(totals, toByte);

/** @param {(x: number, y: number) => boolean} inside @param {number} width @param {number} height */
function countHits(inside, width, height) {
  const hits = new Uint8Array(width * height);
  for (const [dx, dy] of offsets()) {
    for (let y = 0; y < height; y += 1)
      for (let x = 0; x < width; x += 1) if (inside(x + dx, y + dy)) hits[y * width + x] += 1;
  }
  return hits;
}

/**
 * Samples only the pixels near the edge; the rest is 0 or 255 by the distance of their centre.
 * @param {(x: number, y: number) => boolean} inside @param {Field} distance
 * @param {number} width @param {number} height @param {number} ramp
 */
function featherShape(inside, distance, width, height, ramp) {
  /** @type {Field} */
  const signed = (x, y) => (inside(x, y) ? distance(x, y) : -distance(x, y));
  const plane = new Uint8Array(width * height);
  const samples = offsets();
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const centre = signed(x + 0.5, y + 0.5);
      let value = centre > 0 ? 255 : 0;
      if (Math.abs(centre) < ramp / 2 + 2) {
        let total = 0;
        for (const [dx, dy] of samples) total += Math.min(1, Math.max(0, 0.5 + signed(x + dx, y + dy) / ramp));
        value = toByte(total);
      }
      plane[y * width + x] = value;
    }
  }
  return plane;
}

/** Edges in pixels: left, top, right, bottom. @param {BoxShape} shape @param {number} width @param {number} height */
const pixels = (shape, width, height) => [
  shape.x * width,
  shape.y * height,
  (shape.x + shape.width) * width,
  (shape.y + shape.height) * height,
];

/**
 * @param {BoxShape | PolygonShape} shape @param {number} width @param {number} height
 * @returns {(x: number, y: number) => boolean}
 */
export function insideTest(shape, width, height) {
  if (shape.type === "polygon") {
    const edges = corners(shape, width, height).filter(([, y1, , y2]) => y1 !== y2);
    return (x, y) => {
      let inside = false;
      for (const [x1, y1, x2, y2] of edges) {
        if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
      }
      return inside;
    };
  }
  const [left, top, right, bottom] = pixels(shape, width, height);
  if (shape.type === "rect") return (x, y) => x >= left && x < right && y >= top && y < bottom;
  const [cx, cy, a, b] = [(left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2];
  return (x, y) => {
    const [u, v] = [(x - cx) / a, (y - cy) / b];
    return u * u + v * v <= 1;
  };
}

/**
 * @param {PolygonShape} shape @param {number} width @param {number} height
 * @returns {[number, number, number, number][]}
 */
function corners(shape, width, height) {
  const points = shape.points.map(([x, y]) => [x * width, y * height]);
  return points.map(([x1, y1], n) => {
    const [x2, y2] = points[(n + 1) % points.length];
    return [x1, y1, x2, y2];
  });
}

/**
 * Euclidean distance in pixels to the nearest edge.
 * @param {BoxShape | PolygonShape} shape @param {number} width @param {number} height @returns {Field}
 */
function distanceTo(shape, width, height) {
  if (shape.type === "polygon") return distanceToPolygon(shape, width, height);
  let [left, top, right, bottom] = pixels(shape, width, height);
  if (shape.type === "ellipse") {
    const [cx, cy, a, b] = [(left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2];
    return (x, y) => distanceToEllipse(x - cx, y - cy, a, b);
  }
  if (left <= 0) left = -FAR_AWAY;
  if (top <= 0) top = -FAR_AWAY;
  if (right >= width) right = FAR_AWAY;
  if (bottom >= height) bottom = FAR_AWAY;
  return (x, y) => {
    const dx = Math.max(left - x, x - right);
    const dy = Math.max(top - y, y - bottom);
    const [outX, outY] = [Math.max(dx, 0), Math.max(dy, 0)];
    return dx > 0 || dy > 0 ? Math.sqrt(outX * outX + outY * outY) : -Math.max(dx, dy);
  };
}

/** @param {PolygonShape} shape @param {number} width @param {number} height @returns {Field} */
function distanceToPolygon(shape, width, height) {
  const edges = corners(shape, width, height).filter(([x1, y1, x2, y2]) => {
    const onBorder =
      (x1 <= 0 && x2 <= 0) || (x1 >= width && x2 >= width) || (y1 <= 0 && y2 <= 0) || (y1 >= height && y2 >= height);
    return !onBorder && (x2 - x1) * (x2 - x1) + (y2 - y1) * (y2 - y1) !== 0;
  });
  return (x, y) => {
    let squared = FAR_AWAY * FAR_AWAY;
    for (const [x1, y1, x2, y2] of edges) {
      const [ex, ey] = [x2 - x1, y2 - y1];
      const length = ex * ex + ey * ey;
      const t = Math.min(1, Math.max(0, ((x - x1) * ex + (y - y1) * ey) / length));
      const [dx, dy] = [x - (x1 + t * ex), y - (y1 + t * ey)];
      squared = Math.min(squared, dx * dx + dy * dy);
    }
    return Math.sqrt(squared);
  };
}

/**
 * Walks along the circle of curvature, which needs no trigonometry.
 * @param {number} x @param {number} y @param {number} a @param {number} b
 */
function distanceToEllipse(x, y, a, b) {
  const [px, py] = [Math.abs(x), Math.abs(y)];
  let tx = 0.7071067811865476;
  let ty = tx;
  for (let step = 0; step < ELLIPSE_STEPS; step += 1) {
    const ex = ((a * a - b * b) * (tx * tx * tx)) / a;
    const ey = ((b * b - a * a) * (ty * ty * ty)) / b;
    const [rx, ry] = [a * tx - ex, b * ty - ey];
    const [qx, qy] = [px - ex, py - ey];
    const reach = Math.sqrt(rx * rx + ry * ry) / Math.max(Math.sqrt(qx * qx + qy * qy), 1e-12);
    tx = Math.min(1, Math.max(0, (qx * reach + ex) / a));
    ty = Math.min(1, Math.max(0, (qy * reach + ey) / b));
    const norm = Math.max(Math.sqrt(tx * tx + ty * ty), 1e-12);
    tx /= norm;
    ty /= norm;
  }
  const [dx, dy] = [px - a * tx, py - b * ty];
  return Math.sqrt(dx * dx + dy * dy);
}

/** @param {import("./model.js").MaskShape} shape @param {number} width @param {number} height */
function maskHits(shape, width, height) {
  const grid = new Uint8Array(shape.width * shape.height);
  let at = 0;
  shape.runs.forEach((run, n) => grid.fill(n & 1, at, (at += run)));
  const hits = new Uint8Array(width * height);
  for (const [dx, dy] of offsets()) {
    for (let y = 0; y < height; y += 1) {
      const row = Math.trunc(((y + dy) * shape.height) / height) * shape.width;
      for (let x = 0; x < width; x += 1)
        hits[y * width + x] += grid[row + Math.trunc(((x + dx) * shape.width) / width)];
    }
  }
  return hits;
}

/**
 * A ramp over the distance between pixel centres, less half a pixel.
 * @param {Uint8Array} inside @param {number} width @param {number} height @param {number} ramp
 */
export function featherPixels(inside, width, height, ramp) {
  const reach = Math.trunc(ramp / 2) + 2;
  const toOutside = nearest(
    inside.map((n) => 1 - n),
    width,
    height,
    reach,
  );
  const toInside = nearest(inside, width, height, reach);
  return inside.map((on, n) => {
    const signed = on ? toOutside[n] - 0.5 : 0.5 - toInside[n];
    return Math.floor(Math.min(1, Math.max(0, 0.5 + signed / ramp)) * 255 + 0.5);
  });
}

/**
 * Distance to the nearest set pixel, exact up to `reach`.
 * @param {Uint8Array} target @param {number} width @param {number} height @param {number} reach
 */
function nearest(target, width, height, reach) {
  const far = 4 * reach + 4;
  const down = Float64Array.from(target, (on) => (on ? 0 : far));
  for (let n = width; n < down.length; n += 1) down[n] = Math.min(down[n], down[n - width] + 1);
  for (let n = down.length - width - 1; n >= 0; n -= 1) down[n] = Math.min(down[n], down[n + width] + 1);
  const squared = down.map((d) => d * d);
  const best = squared.slice();
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = y * width + x;
      for (let step = 1; step <= Math.min(reach, width - 1); step += 1) {
        if (x >= step) best[at] = Math.min(best[at], squared[at - step] + step * step);
        if (x + step < width) best[at] = Math.min(best[at], squared[at + step] + step * step);
      }
    }
  }
  return best.map(Math.sqrt);
}
