/** What was found becomes regions: by concept, without a second one of it, and everything else stays. */

import assert from "node:assert/strict";
import test from "node:test";
import { takeFound } from "../../web/regions/found.js";

const box = (/** @type {number} */ x) => ({ type: "rect", x, y: 0, width: 0.5, height: 1 });
const polygon = {
  type: "polygon",
  points: [
    [0, 0],
    [0.5, 0],
    [0.5, 1],
  ],
};
const found = JSON.stringify({
  version: 1,
  width: 128,
  height: 64,
  regions: [
    { id: "found-1", name: "mara", concept: "mara", shape: polygon },
    { id: "found-2", name: "tom", concept: "tom", shape: polygon },
  ],
});

test("an empty editor takes all of them", () => {
  const { regions, width, height } = JSON.parse(takeFound("", found));
  assert.deepEqual(
    regions.map((/** @type {any} */ region) => region.concept),
    ["mara", "tom"],
  );
  assert.deepEqual([width, height], [128, 64]);
  assert.deepEqual(regions[0].shape.points, polygon.points);
});

test("a region of the same concept keeps all but its shape, others stay, and twice is once", () => {
  const mine = { id: "a", name: "left", concept: "Mara", prompt: "a hat", strength: 0.5, shape: box(0) };
  const other = { id: "b", name: "dog", prompt: "a dog", shape: box(0.5) };
  const before = JSON.stringify({ version: 1, width: 512, height: 512, regions: [mine, other] });
  const after = takeFound(before, found);
  const { regions, width } = JSON.parse(after);
  assert.equal(width, 512);
  assert.deepEqual(
    regions.map((/** @type {any} */ { name, concept, shape }) => [name, concept, shape.type]),
    [
      ["left", "Mara", "polygon"],
      ["dog", "", "rect"],
      ["tom", "tom", "polygon"],
    ],
  );
  assert.equal(regions[0].prompt, "a hat");
  assert.equal(regions[0].strength, 0.5);
  assert.equal(takeFound(after, found), after);
});
