import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readShape } from "../../web/regions/read.js";
import { rasterize } from "../../web/regions/raster.js";

const golden = JSON.parse(readFileSync(new URL("../golden/regions_raster.json", import.meta.url), "utf8"));

test("there are golden masks of every kind", () => {
  const kinds = new Set(
    golden.cases.map((/** @type {any} */ entry) => `${entry.shape.type}${entry.feather ? " feathered" : ""}`),
  );
  for (const kind of ["rect", "ellipse", "polygon", "mask"])
    assert.ok(kinds.has(kind) && kinds.has(`${kind} feathered`), kind);
});

for (const entry of golden.cases) {
  test(`golden mask: ${entry.name}`, () => {
    const shape = readShape(entry.shape);
    assert.ok(shape, "the editor reads the shape");
    const mask = rasterize(shape, entry.width, entry.height, entry.feather);
    assert.ok(mask);
    assert.equal(Buffer.from(mask).toString("hex"), entry.hex);
  });
}
