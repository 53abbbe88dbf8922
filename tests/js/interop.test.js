import assert from "node:assert/strict";
import { test } from "node:test";
import { addRegions, copyText, readPaste } from "../../web/regions/interop.js";
import { emptyDoc, makeRegion, writeDoc } from "../../web/regions/model.js";
import { makeGenerator, random } from "./generate.js";

const DOC = emptyDoc(1024, 512);

/** @param {string} text */
function regionsOf(text) {
  const pasted = readPaste(text, DOC);
  assert.ok(pasted.kind === "regions", pasted.kind);
  return pasted.regions;
}

test("a copied region comes back with another id and name, and without its lock", () => {
  const region = makeRegion(
    DOC,
    { type: "ellipse", x: 0.1, y: 0.1, width: 0.2, height: 0.3 },
    { name: "mara", prompt: "a", ui: { locked: true } },
  );
  const doc = { ...DOC, regions: [region] };
  const { doc: next, added } = addRegions(doc, regionsOf(copyText(doc, region)));
  assert.equal(next.regions.length, 2);
  assert.deepEqual([added[0].prompt, added[0].shape, added[0].ui.locked], ["a", region.shape, undefined]);
  assert.notEqual(added[0].id, region.id);
  assert.notEqual(added[0].name, region.name);
});

test("the host's bounding boxes: pixels, with words, nested per picture, and as four numbers", () => {
  const box = { x: 256, y: 128, width: 512, height: 256, metadata: { type: "obj", desc: "a dog", text: "" } };
  for (const value of [[box], [[box]], { __value__: [box] }, box]) {
    const [region] = regionsOf(JSON.stringify(value));
    assert.deepEqual(region.shape, { type: "rect", x: 0.25, y: 0.25, width: 0.5, height: 0.5 });
    assert.equal(region.prompt, "a dog");
  }
  assert.deepEqual(regionsOf("[[0, 0, 512, 512]]")[0].shape, { type: "rect", x: 0, y: 0, width: 0.5, height: 1 });
});

test("the reference's strings: top, left, bottom, right in pixels; empty box is everything", () => {
  const [one, two] = regionsOf("[a <hinton1> man]-*-[blurry]-*-[10, 256, 512, 768]|[sky]-*-[]-*-[]");
  assert.deepEqual([one.prompt, one.negative], ["a <hinton1> man", "blurry"]);
  assert.deepEqual(one.shape, { type: "rect", x: 0.25, y: 0.019531, width: 0.5, height: 0.980469 });
  assert.deepEqual(two.shape, { type: "rect", x: 0, y: 0, width: 1, height: 1 });
});

test("a whole document is taken as one; anything else is nothing", () => {
  assert.equal(readPaste(writeDoc(DOC), DOC).kind, "document");
  for (const text of ["", "hello", "{", "[]", "{}", "1", "null", "a-*-b", '{"x":"<b>"}'])
    assert.equal(readPaste(text, DOC).kind, "none", text);
});

test("3000 hostile pastes never throw", () => {
  const next = makeGenerator(random(5));
  for (let n = 0; n < 3000; n += 1) {
    const pasted = readPaste(next(), DOC);
    if (pasted.kind === "regions") addRegions(DOC, pasted.regions);
  }
});
