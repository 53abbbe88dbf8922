/** The small modules: history, measuring, view, canvas sizes, texts, names up the wires. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { regionIn } from "../../web/regions/blame.js";
import { thin } from "../../web/regions/geometry.js";
import { NameBook } from "../../web/names.js";
import { History } from "../../web/regions/history.js";
import { lostTokens, measure } from "../../web/regions/measure.js";
import { emptyDoc, makeRegion } from "../../web/regions/model.js";
import { SDXL_BUCKETS, withRatio } from "../../web/regions/presets.js";
import { ENGLISH, translator } from "../../web/regions/texts.js";
import { findConceptNames, leadsTo } from "../../web/regions/upstream.js";
import { canvasRect, zoomAt } from "../../web/regions/view.js";

const WEB = new URL("../../web/", import.meta.url);

test("history: undo, redo, merging, and a new branch", () => {
  const history = new History("a");
  history.push("b");
  history.push("c", true);
  assert.equal(history.undo(), "a");
  assert.equal(history.undo(), null);
  assert.equal(history.redo(), "c");
  history.undo();
  history.push("d");
  assert.equal(history.canRedo, false);
});

test("cover and overlap are those of the drawing", () => {
  let doc = emptyDoc(512, 512);
  for (const x of [0, 0.25]) {
    const shape = /** @type {const} */ ({ type: "rect", x, y: 0, width: 0.5, height: 1 });
    doc = { ...doc, regions: [...doc.regions, makeRegion(doc, shape, { prompt: "a dog" })] };
  }
  const figures = measure(doc);
  assert.ok(Math.abs(figures.covered - 0.75) < 0.01 && Math.abs(figures.overlap - 0.25) < 0.01);
  assert.ok(Math.abs((figures.shares.get("r1") ?? 0) - 0.5) < 0.01);
});

test("what has neither a prompt nor a concept covers nothing", () => {
  const doc = emptyDoc(512, 512);
  const shape = /** @type {const} */ ({ type: "rect", x: 0, y: 0, width: 0.5, height: 1 });
  const covered = (/** @type {object} */ extra) => {
    const region = makeRegion(doc, shape, extra);
    return measure({ ...doc, regions: [region, makeRegion(doc, shape, { id: "r2", prompt: "a dog" })] });
  };
  assert.ok(covered({ prompt: " ", negative: "hat" }).overlap === 0 && covered({ concept: "mara" }).overlap > 0.49);
  assert.ok(covered({}).covered > 0.49, "the other one still does");
});

test("a region is lost where it owns no token: by half with soft edges, wholly with hard ones", () => {
  const lost = (/** @type {any} */ doc, /** @type {number[]} */ ...[x, y, width, height]) =>
    lostTokens(
      doc,
      makeRegion(doc, { type: "rect", x: x / 512, y: y / 512, width: width / 512, height: height / 512 }),
    );
  const soft = emptyDoc(512, 512);
  const hard = { ...soft, edges: /** @type {const} */ ("paper") };
  assert.deepEqual(lost(soft, 64, 0, 64, 512), []);
  assert.deepEqual(lost(soft, 96, 0, 64, 512), [], "half of two tokens");
  assert.deepEqual(lost(hard, 96, 0, 64, 512), [64]);
  assert.deepEqual(lost(soft, 64, 0, 24, 512), [64]);
  assert.deepEqual(lost(soft, 64, 64, 8, 8), [16, 32, 64]);
  assert.deepEqual(lost({ ...emptyDoc(128, 64) }, 0, 0, 16, 512), [16], "a small canvas has tokens of 8 and 16 only");
  assert.deepEqual(lostTokens(soft, makeRegion(soft, { type: "input", index: 0 })), []);
});

test("zooming keeps the point under the pointer", () => {
  const [frame, canvas] = [
    { width: 500, height: 400 },
    { width: 1024, height: 512 },
  ];
  const before = canvasRect(frame, canvas, { zoom: 1, x: 0, y: 0 });
  const view = zoomAt(frame, canvas, { zoom: 1, x: 0, y: 0 }, 2, 200, 180);
  const after = canvasRect(frame, canvas, view);
  assert.ok(Math.abs((200 - before.x) / before.width - (200 - after.x) / after.width) < 1e-9);
  assert.ok(Math.abs((180 - before.y) / before.height - (180 - after.y) / after.height) < 1e-9);
});

test("canvas sizes: about the same area, multiples of 64; SDXL's sizes are about a megapixel", () => {
  assert.deepEqual(withRatio({ width: 1024, height: 1024 }, 3, 2), { width: 1280, height: 832 });
  for (const [width, height] of SDXL_BUCKETS)
    assert.ok(width % 64 === 0 && height % 64 === 0 && Math.abs(width * height - 1024 * 1024) < 1e5);
  assert.deepEqual(withRatio({ width: 128, height: 128 }, 2, 1), { width: 176, height: 88 });
});

test("thinning keeps the corners that matter", () => {
  /** @type {[number, number][]} */
  const square = [
    [0, 0],
    [0.5, 0.001],
    [1, 0],
    [1, 1],
    [0, 1],
  ];
  assert.deepEqual(thin(square, 4), [
    [0, 0],
    [1, 0],
    [1, 1],
    [0, 1],
  ]);
});

test("every text that is used exists, and both languages are complete", () => {
  const locale = (/** @type {string} */ name) =>
    JSON.parse(readFileSync(new URL(`../locales/${name}/main.json`, WEB), "utf8")).mixofshowEditor;
  const flat = Object.fromEntries(Object.entries(ENGLISH).map(([key, text]) => [key.replaceAll(".", "_"), text]));
  assert.deepEqual(locale("en"), flat);
  assert.deepEqual(Object.keys(locale("zh")).sort(), Object.keys(flat).sort());
  for (const [key, text] of Object.entries(locale("zh"))) {
    const names = (/** @type {unknown} */ value) => [...String(value).matchAll(/\{\w+\}/g)].map(String).sort();
    assert.deepEqual(names(text), names(flat[key]), key);
  }
  for (const file of readdirSync(new URL("regions/", WEB))) {
    const code = readFileSync(new URL(`regions/${file}`, WEB), "utf8");
    for (const [, key] of code.matchAll(/(?:\bt|translate|say|refuse)\((?:editor, )?"([\w.]+)"/g))
      assert.ok(key in ENGLISH, `${file}: ${key}`);
    for (const [, key] of code.matchAll(/"((?:note|say)\.\w+)"/g)) assert.ok(key in ENGLISH, `${file}: ${key}`);
  }
  assert.equal(translator({ meter: "{covered} von hundert" })("meter", { covered: 5 }), "5 von hundert");
  assert.equal(translator()("constructor"), "constructor");
});

test("no module does anything when it is imported, and nothing reaches outside its element", () => {
  for (const file of readdirSync(new URL("regions/", WEB))) {
    const code = readFileSync(new URL(`regions/${file}`, WEB), "utf8").replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    for (const banned of [
      "innerHTML",
      "insertAdjacentHTML",
      "eval(",
      "new Function",
      "document.add",
      "window.",
      "document.body",
      "document.head",
      "prototype.",
      "localStorage",
    ]) {
      assert.ok(!code.includes(banned), `${file}: ${banned}`);
    }
  }
  assert.ok(readFileSync(new URL("mixofshow.js", WEB), "utf8").trim().split("\n").length <= 80);
});

/** @param {Record<string, any>} nodes @param {Record<number, [string, number]>} links */
function graphOf(nodes, links) {
  const graph = {
    links: Object.fromEntries(
      Object.entries(links).map(([id, [origin_id, origin_slot]]) => [id, { origin_id, origin_slot }]),
    ),
    nodes: Object.values(nodes),
    getNodeById: (/** @type {string | number} */ id) => nodes[id],
  };
  for (const node of graph.nodes) node.graph = graph;
  return Object.assign(graph, { rootGraph: graph });
}

/** What the files of these tests bring; a name that is not here is not known. */
const FILES = { "two.safetensors": ["anna", "berta"], "plain.safetensors": [] };
/** @type {import("../../web/regions/upstream.js").NamesIn} */
const namesIn = (file) => FILES[/** @type {keyof typeof FILES} */ (file)] ?? null;

/** @param {string} name @param {number | null} [link] @param {string} [file] */
const loader = (name, link = null, file = "new.safetensors") => ({
  type: "MixOfShowLoadConcept",
  widgets: [
    { name: "name", value: name },
    { name: "file", value: file },
  ],
  inputs: /** @type {any[]} */ ([
    { name: "concepts", type: "MIXOFSHOW_CONCEPTS", link },
    { name: "name", type: "STRING", widget: { name: "name" }, link: null },
  ]),
});
/** @param {number | null} link @returns {any} */
const regions = (link) => ({
  type: "MixOfShowRegions",
  inputs: [{ name: "concepts", type: "MIXOFSHOW_CONCEPTS", link }],
});
const find = (/** @type {any} */ node) => {
  const { names, complete } = findConceptNames(node, namesIn);
  return { names, complete };
};

test("names are found along chains, reroutes and bypassed nodes", () => {
  const nodes = {
    a: loader("mara"),
    b: loader("otto", 1),
    c: { type: "Reroute", inputs: [{ name: "", type: "*", link: 2 }] },
    d: regions(3),
    e: regions(null),
  };
  graphOf(nodes, { 1: ["a", 0], 2: ["b", 0], 3: ["c", 0] });
  assert.deepEqual(find(nodes.d), { names: ["otto", "mara"], complete: true });
  Object.assign(nodes.b, { mode: 4 });
  assert.deepEqual(find(nodes.d).names, ["mara"]);
  assert.deepEqual(find(nodes.e), { names: [], complete: false });
});

test("where no name is typed the chosen file says it; where that is not known, or wired, the list is not complete", () => {
  const nodes = { a: loader(" ", null, "two.safetensors"), b: loader("otto", 1), d: regions(2) };
  graphOf(nodes, { 1: ["a", 0], 2: ["b", 0] });
  const set = (/** @type {string} */ name, /** @type {string} */ value) => {
    const widget = nodes.a.widgets.find((entry) => entry.name === name);
    if (widget) widget.value = value;
  };
  assert.deepEqual(find(nodes.d), { names: ["otto", "anna", "berta"], complete: true });
  set("file", "plain.safetensors");
  assert.deepEqual(find(nodes.d), { names: ["otto"], complete: true }, "a file that is known to have none");
  set("file", "huge.pth");
  assert.deepEqual(find(nodes.d), { names: ["otto"], complete: false });
  set("name", "mara");
  assert.deepEqual(find(nodes.d), { names: ["otto", "mara"], complete: true });
  nodes.a.inputs[1].link = 7;
  assert.deepEqual(find(nodes.d), { names: ["otto"], complete: false });
});

test("a Cast brings the names of its rows that are on", () => {
  const rows = [
    { file: "two.safetensors" },
    { file: "huge.pth", name: " otto " },
    { file: "huge.pth", on: false },
    { file: "plain.safetensors", name: "" },
  ];
  const cast = { name: "cast", value: /** @type {any} */ (JSON.stringify({ version: 1, rows })) };
  const nodes = { a: { type: "MixOfShowCast", widgets: [cast], inputs: /** @type {any[]} */ ([]) }, d: regions(1) };
  graphOf(nodes, { 1: ["a", 0] });
  assert.deepEqual(find(nodes.d), { names: ["anna", "berta", "otto"], complete: true });
  cast.value = JSON.stringify({ version: 1, rows: [...rows, { file: "huge.pth" }] });
  assert.deepEqual(find(nodes.d), { names: [], complete: false });
  for (const broken of ["{", "", "7", '{"version": 1}']) {
    cast.value = broken;
    assert.equal(find(nodes.d).complete, false, broken);
  }
  cast.value = '{"version": 1, "rows": []}';
  assert.deepEqual(find(nodes.d), { names: [], complete: true });
  nodes.a.inputs.push({ name: "cast", type: "STRING", widget: { name: "cast" }, link: 5 });
  assert.equal(find(nodes.d).complete, false);
});

test("names are found through training, out of and into subgraphs, and circles end", () => {
  const train = { type: "MixOfShowTrain", inputs: [{ name: "dataset", type: "MIXOFSHOW_DATASET", link: 1 }] };
  const dataset = { type: "MixOfShowDataset", widgets: [{ name: "name", value: "otto" }], inputs: [] };
  const inner = graphOf({ t: train, s: dataset, r: regions(9) }, { 1: ["s", 0], 2: ["t", 0], 9: ["-10", 0] });
  Object.assign(inner, { outputs: [{ linkIds: [2] }] });
  const nodes = {
    box: { type: "uuid", subgraph: inner, inputs: [{ name: "concepts", type: "MIXOFSHOW_CONCEPTS", link: 5 }] },
    a: loader("mara", 7),
    d: regions(6),
  };
  const outer = graphOf(nodes, { 5: ["a", 0], 6: ["box", 0], 7: ["a", 0] });
  Object.assign(inner, { rootGraph: outer });
  assert.deepEqual(find(nodes.d).names, ["otto"]);
  const inside = inner.nodes.find((node) => node.type === "MixOfShowRegions");
  assert.deepEqual(find(inside).names, ["mara"]);
});

test("a file is asked for once, again after a run, and what was learnt stays meanwhile", async () => {
  const answers = [["anna"], new Error("no such address"), ["anna", "berta"]];
  /** @type {string[]} */
  const asked = [];
  let heard = 0;
  const book = new NameBook(async (file) => {
    asked.push(file);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  });
  book.listeners.add(() => (heard += 1));
  const settle = () => new Promise((done) => setTimeout(done));
  assert.deepEqual([book.namesIn("a"), book.namesIn("a")], [null, null]);
  await settle();
  assert.deepEqual([book.namesIn("a"), asked, heard], [["anna"], ["a"], 1]);
  assert.equal(book.namesIn("b"), null);
  await settle();
  assert.equal(book.namesIn("b"), null, "a server without the address is no error");
  book.forget();
  assert.deepEqual(book.namesIn("a"), ["anna"], "until the answer is there");
  await settle();
  assert.deepEqual(
    [book.namesIn("a"), asked],
    [
      ["anna", "berta"],
      ["a", "b", "a"],
    ],
  );
});

test("a text of the server names a region by name, by number, or not at all", () => {
  let doc = emptyDoc();
  const shape = /** @type {const} */ ({ type: "rect", x: 0, y: 0, width: 0.5, height: 1 });
  for (const name of ["left", "it's", 'a "b" \\ c', "7"])
    doc = { ...doc, regions: [...doc.regions, makeRegion(doc, shape, { name })] };
  const found = (/** @type {string} */ text) => regionIn(text, doc.regions)?.name ?? null;
  assert.equal(found("Place: the prompt of region 'left' names 2 unfused concepts; name one of mara, finn."), "left");
  assert.equal(found(`Regions: region "it's" covers no pixel of the 64 x 64 canvas`), "it's");
  assert.equal(found(`Regions: mask 0 for region 'a "b" \\\\ c' is 3 x 4`), 'a "b" \\ c');
  assert.equal(found("Regions: region 2 ('left'): strength is 7"), "left", "the name before the number");
  assert.equal(found("Regions: region 2: a shape is missing"), "it's");
  assert.equal(found("Place: negative prompt of region '7': too long"), "7");
  for (const text of ["", "Pick Region: there is no region 'zoe'.", "There are 70 regions", "region 9 is gone"])
    assert.equal(found(text), null, text);
});

test("an error reaches the editor whose regions the failing node may have got", () => {
  const wire = (/** @type {number | null} */ link) => ({ inputs: [{ name: "x", type: "X", link }] });
  const nodes = { 1: regions(null), 2: wire(1), 3: wire(2), 4: regions(null), 5: wire(9) };
  graphOf(nodes, { 1: ["1", 0], 2: ["2", 0], 9: ["-10", 0] });
  const reached = (/** @type {string} */ id) => [nodes[1], nodes[4]].map((node) => leadsTo(node, id));
  assert.deepEqual(reached("3"), [true, false]);
  assert.deepEqual(reached("8:3"), [true, false]);
  assert.deepEqual(reached("4"), [false, true]);
  assert.deepEqual(reached("5"), [true, true], "from outside of the subgraph");
  assert.deepEqual(reached("77"), [true, true], "a node of another graph");
});
