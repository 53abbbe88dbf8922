import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeRuns,
  encodeRuns,
  gridSize,
  isEmpty,
  maskBounds,
  redrawMask,
  stroke,
} from "../../web/regions/bitmask.js";
import { readShape } from "../../web/regions/read.js";
import { random } from "./generate.js";

/** @param {number} width @param {number} height @param {number} seed */
function noise(width, height, seed) {
  const next = random(seed);
  return { width, height, cells: Uint8Array.from({ length: width * height }, () => Number(next() < 0.4)) };
}

test("coding and decoding gives the same grid back", () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const grid = noise(1 + (seed % 13), 1 + (seed % 7), seed);
    const shape = encodeRuns(grid);
    assert.equal(
      shape.runs.reduce((sum, run) => sum + run, 0),
      grid.cells.length,
    );
    assert.deepEqual([...decodeRuns(shape).cells], [...grid.cells]);
  }
});

test("decoding at another size takes the cell under each centre", () => {
  for (const [width, height] of [
    [3, 9],
    [40, 2],
    [5, 5],
    [17, 23],
  ]) {
    const grid = noise(11, 6, width);
    const seen = decodeRuns(encodeRuns(grid), width, height).cells;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const at = Math.floor(((y + 0.5) * 6) / height) * 11 + Math.floor(((x + 0.5) * 11) / width);
        assert.equal(seen[y * width + x], grid.cells[at], `${width}x${height} at ${x},${y}`);
      }
    }
  }
});

test("bounds are those of the set cells", () => {
  const grid = { width: 10, height: 8, cells: new Uint8Array(80) };
  stroke(grid, [3, 3], [5, 3], 1, 1);
  const shape = encodeRuns(grid);
  const seen = [...grid.cells.keys()].filter((n) => grid.cells[n]);
  const xs = seen.map((n) => n % 10);
  const ys = seen.map((n) => Math.floor(n / 10));
  const box = maskBounds(shape);
  assert.deepEqual([box.x * 10, box.y * 8], [Math.min(...xs), Math.min(...ys)]);
  assert.ok(Math.abs((box.x + box.width) * 10 - Math.max(...xs) - 1) < 1e-9);
  assert.ok(Math.abs((box.y + box.height) * 8 - Math.max(...ys) - 1) < 1e-9);
});

test("a stroke is a disc swept along a line; erasing takes it away; the border is respected", () => {
  const grid = { width: 40, height: 20, cells: new Uint8Array(800) };
  stroke(grid, [10, 10], [30, 10], 4, 1);
  const area = grid.cells.reduce((sum, cell) => sum + cell, 0);
  assert.ok(Math.abs(area - (20 * 8 + Math.PI * 16)) < 12, String(area));
  stroke(grid, [-50, 10], [90, 10], 30, 0);
  assert.ok(isEmpty(grid));
});

test("moving a mask by whole cells loses nothing", () => {
  const grid = { width: 32, height: 32, cells: new Uint8Array(1024) };
  stroke(grid, [8, 8], [14, 10], 3, 1);
  const shape = encodeRuns(grid);
  const from = maskBounds(shape);
  const moved = redrawMask(shape, from, { ...from, x: from.x + 9 / 32, y: from.y + 5 / 32 });
  const back = redrawMask(moved, maskBounds(moved), from);
  assert.deepEqual(back, shape);
  assert.ok(readShape(moved));
});

test("the grid has the proportions of the canvas", () => {
  assert.deepEqual(gridSize(1024, 1024), { width: 256, height: 256 });
  assert.deepEqual(gridSize(1536, 640), { width: 256, height: 107 });
  assert.deepEqual(gridSize(128, 64), { width: 128, height: 64 });
});
