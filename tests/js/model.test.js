import assert from "node:assert/strict";
import { test } from "node:test";
import * as model from "../../web/regions/model.js";
import { readDoc } from "../../web/regions/read.js";
import { makeGenerator, random } from "./generate.js";

const RECT = /** @type {const} */ ({ type: "rect", x: 0, y: 0, width: 0.5, height: 1 });

/** @param {object[]} regions @param {object} [more] */
const textOf = (regions, more = {}) => JSON.stringify({ version: 1, regions, ...more });

test("a plain document is read without notes and survives writing and reading", () => {
  const text = textOf(
    [{ id: "left", shape: RECT, prompt: "mara", concept: "mara", strength: 0.5, ui: { locked: true } }],
    { suffix: "4k", overlap: "priority" },
  );
  const { doc, notes, sized } = readDoc(text, { width: 768, height: 512 });
  assert.deepEqual([notes, sized], [[], false]);
  assert.deepEqual([doc.width, doc.height, doc.suffix, doc.overlap], [768, 512, "4k", "priority"]);
  assert.equal(doc.regions[0].name, "left");
  assert.equal(doc.regions[0].ui.locked, true);
  const written = model.writeDoc(doc);
  assert.equal(model.writeDoc(readDoc(written).doc), written);
  assert.deepEqual(Object.keys(JSON.parse(written)), [
    "version",
    "width",
    "height",
    "regions",
    "overlap",
    "edges",
    "suffix",
    "background",
  ]);
});

test("what cannot be kept is dropped and named", () => {
  const keys = (/** @type {string} */ text) => readDoc(text).notes.map(([key]) => key);
  assert.deepEqual(keys("{"), ["note.notJson"]);
  assert.deepEqual(keys("[]"), ["note.notObject"]);
  assert.deepEqual(keys(textOf([{ id: "a", shape: { ...RECT, width: 0 } }])), ["note.dropped"]);
  assert.deepEqual(keys(textOf([{ id: "a", shape: { ...RECT, x: 300 } }])), ["note.dropped"]);
  assert.deepEqual(keys(textOf([{ id: "a", shape: RECT, strength: 7 }])), ["note.field"]);
  assert.deepEqual(keys(textOf([{ id: "a", shape: RECT, start: 0.8, end: 0.2 }])), ["note.field"]);
  assert.deepEqual(
    keys(
      textOf([
        { id: "a", name: "x", shape: RECT },
        { id: "b", name: "X", shape: RECT },
      ]),
    ),
    ["note.renamed"],
  );
  assert.deepEqual(keys(textOf([], { version: 9 })), ["note.version"]);
  assert.deepEqual(keys(textOf([], { colour: 1 })), ["note.unknown"]);
  assert.deepEqual(keys(" ".repeat(300_000) + "{}"), ["note.tooBig"]);
  const many = readDoc(textOf(Array.from({ length: 1000 }, () => ({ shape: RECT }))));
  assert.equal(many.doc.regions.length, 64);
  assert.equal(many.notes[0][0], "note.tooMany");
});

test("ids, names and colours of new regions are free", () => {
  let doc = model.emptyDoc();
  for (let n = 0; n < 10; n += 1) doc = { ...doc, regions: [...doc.regions, model.makeRegion(doc, RECT)] };
  assert.equal(new Set(doc.regions.map((region) => region.id)).size, 10);
  assert.equal(new Set(doc.regions.map((region) => region.name.toLowerCase())).size, 10);
  assert.equal(new Set(doc.regions.slice(0, 8).map((region) => region.ui.color)).size, 8);
  assert.equal(new Set(doc.regions.slice(0, 8).map((region) => region.ui.pattern)).size, 8);
  assert.deepEqual(
    doc.regions.map((region) => region.name),
    doc.regions.map((_, n) => `Region ${n + 1}`),
    "a default name says the number on the badge",
  );
  const fewer = { ...doc, regions: doc.regions.slice(3) };
  const added = model.makeRegion(fewer, RECT);
  assert.deepEqual([added.id, added.name], ["r1", "Region 2"], "Region 8 is taken; names stay, Pick Region knows them");
  doc = model.renameRegion(doc, "r2", "Region 1");
  assert.notEqual(doc.regions[1].name.toLowerCase(), doc.regions[0].name.toLowerCase());
  assert.equal(model.renameRegion(doc, "r2", "  "), doc);
});

test("reordering keeps all regions", () => {
  let doc = model.emptyDoc();
  for (let n = 0; n < 3; n += 1) doc = { ...doc, regions: [...doc.regions, model.makeRegion(doc, RECT)] };
  assert.deepEqual(
    model.reorderRegion(doc, "r1", 1).regions.map((r) => r.id),
    ["r2", "r1", "r3"],
  );
  assert.equal(model.reorderRegion(doc, "r3", 1), doc);
});

test("10000 broken documents: never an error, never an unsound document", () => {
  const next = makeGenerator(random(7));
  for (let n = 0; n < 10_000; n += 1) {
    const text = next();
    const { doc } = readDoc(text, { width: 512, height: 512 });
    const written = model.writeDoc(doc);
    const again = readDoc(written, { width: 512, height: 512 });
    assert.deepEqual(again.notes, [], `case ${n}: ${text.slice(0, 300)}`);
    assert.equal(model.writeDoc(again.doc), written, `case ${n}`);
    assert.equal(/** @type {any} */ ({}).type, undefined, "nothing may reach Object.prototype");
  }
});
