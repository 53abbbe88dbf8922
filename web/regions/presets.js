/** Canvas sizes to choose from. */

/** @typedef {{width: number, height: number}} Size */

/** The sizes SDXL was trained on most. @type {readonly [number, number][]} */
export const SDXL_BUCKETS = [
  [1024, 1024],
  [1152, 896],
  [896, 1152],
  [1216, 832],
  [832, 1216],
  [1344, 768],
  [768, 1344],
  [1536, 640],
  [640, 1536],
];
/** @type {readonly [number, number][]} */
export const SD15_SIZES = [
  [512, 512],
  [768, 512],
  [512, 768],
  [1024, 512],
];
/** @type {readonly [number, number][]} */
export const RATIOS = [
  [1, 1],
  [3, 2],
  [2, 3],
  [4, 3],
  [3, 4],
  [2, 1],
  [1, 2],
  [16, 9],
  [9, 16],
];

/**
 * About the same area in another ratio, in steps of 64 (8 for small canvases).
 * @param {Size} size @param {number} across @param {number} down @returns {Size}
 */
export function withRatio(size, across, down) {
  const area = size.width * size.height;
  const step = area < 384 * 384 ? 8 : 64;
  const fit = (/** @type {number} */ side) => Math.max(64, Math.round(side / step) * step);
  const height = fit(Math.sqrt((area * down) / across));
  return { width: fit((height * across) / down), height };
}
