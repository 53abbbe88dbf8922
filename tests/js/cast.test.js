/** The cast's rows, without a page. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  MAX_ROWS,
  duplicateRow,
  makeRow,
  moveRow,
  readCast,
  removeRow,
  searchFiles,
  setRow,
  writeCast,
} from "../../web/cast/model.js";
import { findConceptNames } from "../../web/regions/upstream.js";

const rows = ["a", "b", "c"].map((file) => makeRow({ file }));
const files = (/** @type {{file: string}[]} */ list) => list.map((row) => row.file).join("");

test("what is written is read back, without the defaults", () => {
  const full = [
    ...rows,
    makeRow({ file: "d", on: false, name: "n", trigger: "t", strength: 0, text_strength: 0, role: "style" }),
  ];
  assert.deepEqual(readCast(writeCast(full)).rows, full);
  assert.deepEqual(JSON.parse(writeCast(rows)).rows[0], { file: "a" });
  const schema = JSON.parse(readFileSync(new URL("../../docs/cast.schema.json", import.meta.url), "utf8"));
  assert.deepEqual(Object.keys(schema.$defs.row.properties).sort(), Object.keys(makeRow()).sort());
  assert.equal(schema.properties.rows.maxItems, MAX_ROWS);
});

test("what cannot be read is counted, and nothing throws", () => {
  for (const text of ["{", "[]", '{"version": 2}', '{"version": 1, "rows": 5}'])
    assert.equal(readCast(text).broken, true);
  assert.deepEqual(readCast(" "), { rows: [], dropped: 0, broken: false });
  const odd = readCast(JSON.stringify({ version: 1, rows: [null, 5, [], { file: 7, strength: "x", role: "hero" }] }));
  assert.deepEqual([odd.dropped, odd.rows], [3, [makeRow()]]);
  const many = readCast(JSON.stringify({ version: 1, rows: Array(500).fill({ file: "a", strength: 99 }) }));
  assert.deepEqual([many.rows.length, many.dropped, many.rows[0].strength], [MAX_ROWS, 500 - MAX_ROWS, 10]);
});

test("rows move, go, and are copied switched off", () => {
  assert.equal(files(moveRow(rows, 0, 2)), "bca");
  assert.equal(files(moveRow(rows, 2, 0)), "cab");
  assert.equal(moveRow(rows, 0, -1), rows);
  assert.equal(files(removeRow(rows, 1)), "ac");
  const copied = duplicateRow(rows, 1);
  assert.deepEqual([files(copied), copied[1].on, copied[2].on], ["abbc", true, false]);
  assert.equal(setRow(rows, 1, { name: "x" })[1].name, "x");
  const full = Array.from({ length: MAX_ROWS }, () => makeRow());
  assert.equal(duplicateRow(full, 0), full);
});

test("files are found by words anywhere, those that begin with one first", () => {
  const all = ["people/alice v1.safetensors", "alice.safetensors", "styles/malice.safetensors", "bob.pt"];
  assert.deepEqual(searchFiles(all, "ALICE"), [all[0], all[1], all[2]]);
  assert.deepEqual(searchFiles(all, "people v1"), [all[0]]);
  assert.deepEqual(searchFiles(all, " "), all);
});

test("the names of a cast reach the regions: of rows that are on, as typed or as the file says", () => {
  const cast = writeCast([
    makeRow({ file: "a" }),
    makeRow({ file: "b", name: "bo" }),
    makeRow({ file: "c", on: false }),
  ]);
  const source = { comfyClass: "MixOfShowCast", inputs: [], widgets: [{ name: "cast", value: cast }] };
  const graph = { links: new Map([[1, { origin_id: 7, origin_slot: 0 }]]), getNodeById: () => source };
  const node = { graph, inputs: [{ name: "concepts", type: "MIXOFSHOW_CONCEPTS", link: 1 }] };
  const known = (/** @type {string} */ file) => ({ a: ["anna"], b: ["ben"] })[file] ?? null;
  assert.deepEqual(findConceptNames(node, known), {
    names: ["anna", "bo"],
    complete: true,
    files: { anna: "a", bo: "b" },
  });
  assert.deepEqual(
    findConceptNames(node, () => null),
    { names: [], complete: false, files: { bo: "b" } },
  );
});
