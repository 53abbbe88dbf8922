import assert from "node:assert/strict";
import { test } from "node:test";
import { nextRegion, regionFor } from "../../web/regions/chips.js";
import { completions, wordBefore } from "../../web/regions/complete.js";
import { flipEnabled, handleKey } from "../../web/regions/keys.js";
import { arrange, LAYOUTS } from "../../web/regions/layouts.js";
import { claims, measure } from "../../web/regions/measure.js";
import { COLORS, LIMITS, moveRegion, writeDoc } from "../../web/regions/model.js";
import { readDoc } from "../../web/regions/read.js";
import { Editor } from "../../web/regions/state.js";
import { leadsTo } from "../../web/regions/upstream.js";

const SIZE = { width: 512, height: 512 };
const RECT = { type: "rect", x: 0.1, y: 0.1, width: 0.5, height: 0.5 };
const KNOWN = { names: ["Alice_v1", "bob", "mara"], complete: true };

/** @param {object[]} regions */
const docOf = (...regions) =>
  readDoc(
    JSON.stringify({ version: 1, regions: regions.map((region, n) => ({ id: `r${n}`, shape: RECT, ...region })) }),
  ).doc;
/** @param {object[]} regions */
const editorOf = (...regions) => new Editor(writeDoc(docOf(...regions)), SIZE, { changed: () => {} });

test("a layout moves what is there and makes what is missing, for those who have no region yet", () => {
  const next = (/** @type {string[]} */ taken) => nextRegion(KNOWN, taken);
  const made = arrange(docOf({ concept: "BOB", shape: { ...RECT, type: "ellipse" } }), "columns3", next);
  assert.deepEqual(
    made.regions.map(({ concept, shape }) => [concept, shape.type, "x" in shape && shape.x]),
    [
      ["BOB", "ellipse", 0],
      ["Alice_v1", "rect", 0.333333],
      ["mara", "rect", 0.666667],
    ],
  );
  assert.equal(arrange(made, "columns3", next).regions.length, 3, "again it makes nothing new");
  assert.equal(arrange(made, "columns2", next).regions[2], made.regions[2], "what is beyond the cells stays");
  const kept = docOf({ ui: { locked: true } }, { enabled: false }, { shape: { type: "input", index: 0 } });
  assert.deepEqual(arrange(kept, "rows2", next).regions.slice(0, 3), kept.regions);
  const full = docOf(...Array.from({ length: LIMITS.regions }, () => ({ ui: { locked: true } })));
  assert.equal(arrange(full, "grid", next).regions.length, LIMITS.regions);
  for (const cells of Object.values(LAYOUTS))
    for (const [x, y, width, height] of cells)
      assert.ok(x >= 0 && y >= 0 && x + width <= 1.000001 && y + height <= 1.000001);
});

test("a region for a concept has its name and the colour of its chip", () => {
  assert.deepEqual(regionFor(KNOWN, "bob"), { concept: "bob", name: "bob", ui: { color: COLORS[1], pattern: "dots" } });
  assert.deepEqual(nextRegion(KNOWN, ["alice_V1", "BOB", "mara"]), {});
});

test("a name is completed from its first letters, not inside a word, and no further once it stands there", () => {
  assert.equal(wordBefore("a photo of al", 13), "al");
  assert.equal(wordBefore("a photo of al", 12), "", "the word goes on behind the caret");
  assert.equal(wordBefore("(<al>", 4), "al");
  assert.equal(wordBefore("\u7f8e\u5973 \u7f8e", 4), "\u7f8e");
  assert.deepEqual(completions(KNOWN.names, "AL"), ["Alice_v1"]);
  assert.deepEqual(completions(KNOWN.names, "bob"), []);
  assert.deepEqual(completions(KNOWN.names, ""), []);
  assert.deepEqual(completions(["bob", "bobby"], "bob"), [], "what is typed is a name already");
});

test("a region that is off takes no place, and T switches it", () => {
  const editor = editorOf({ prompt: "a dog" });
  editor.select("r0");
  assert.equal(measure(editor.doc).covered > 0.2, true);
  const event = /** @type {KeyboardEvent} */ ({ key: "t" });
  assert.ok(handleKey(editor, event, { escape: () => false, zoom: () => {} }));
  assert.deepEqual([editor.doc.regions[0].enabled, claims(editor.doc.regions[0])], [false, false]);
  assert.equal(measure(editor.doc).covered, 0);
  assert.equal(JSON.parse(editor.value).regions[0].enabled, false);
  flipEnabled(editor);
  assert.equal(editor.doc.regions[0].enabled, true);
  assert.deepEqual(docOf({ enabled: 1 }).regions[0].enabled, true);
});

test("a region goes to the place that it is dragged to", () => {
  const ids = (/** @type {import("../../web/regions/model.js").Doc} */ doc) =>
    doc.regions.map(({ id }) => id).join(" ");
  const doc = docOf({}, {}, {}, {});
  assert.equal(ids(moveRegion(doc, "r0", 2)), "r1 r2 r0 r3");
  assert.equal(ids(moveRegion(doc, "r3", -5)), "r3 r0 r1 r2");
  assert.equal(moveRegion(doc, "nobody", 1), doc);
});

test("a result comes from the output that carries the regions", () => {
  const nodes = { 1: { inputs: [] }, 2: { inputs: [{ name: "a", link: 1 }] }, 3: { inputs: [{ name: "a", link: 2 }] } };
  const links = { 1: { origin_id: 1, origin_slot: 0 }, 2: { origin_id: 1, origin_slot: 1 } };
  const graph = { links, getNodeById: (/** @type {any} */ id) => nodes[/** @type {1} */ (id)] };
  const node = /** @type {any} */ (Object.assign(nodes[1], { graph }));
  assert.deepEqual(
    ["1", "2", "3"].map((id) => leadsTo(node, id, 0)),
    [true, true, false],
  );
  assert.ok(leadsTo(node, "3"));
});
