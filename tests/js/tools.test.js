import assert from "node:assert/strict";
import { test } from "node:test";
import { handleKey } from "../../web/regions/keys.js";
import { LIMITS } from "../../web/regions/model.js";
import { BACKGROUND, Editor } from "../../web/regions/state.js";
import { begin, makePaintable } from "../../web/regions/tools.js";
import { random } from "./generate.js";

const SIZE = { width: 800, height: 400 };

/** An editor and what it told its host. @param {string} [value] */
function start(value = "") {
  /** @type {{value: string, final: boolean}[]} */
  const told = [];
  const editor = new Editor(value, SIZE, { changed: (text, final) => void told.push({ value: text, final }) });
  return { editor, told };
}

/** @param {number} x @param {number} y @param {Partial<import("../../web/regions/tools.js").Press>} [more] */
const at = (x, y, more = {}) => ({
  x,
  y,
  reach: { x: 0.01, y: 0.02 },
  pull: { x: 0.01, y: 0.02 },
  shift: false,
  alt: false,
  free: true,
  pressure: 1,
  ...more,
});

/** @param {Editor} editor @param {[number, number]} from @param {[number, number]} to @param {object} [more] */
function drag(editor, from, to, more = {}) {
  const gesture = begin(editor, at(...from, more));
  gesture?.move(at((from[0] + to[0]) / 2, (from[1] + to[1]) / 2, more));
  gesture?.move(at(...to, more));
  gesture?.end(at(...to, more));
}

/** @param {Editor} editor @param {string} key @param {object} [more] */
function press(editor, key, more = {}) {
  const event = /** @type {KeyboardEvent} */ ({
    key,
    ctrlKey: false,
    metaKey: false,
    shiftKey: false,
    altKey: false,
    ...more,
  });
  return handleKey(editor, event, { escape: () => false, zoom: () => {} });
}

/**
 * @param {Editor} editor @param {"rect" | "ellipse"} tool @param {[number, number]} from
 * @param {[number, number]} to @param {object} [more]
 */
function drawBox(editor, tool, from, to, more = {}) {
  editor.use(tool);
  drag(editor, from, to, more);
}

/** @param {Editor} editor */
const boxOf = (editor) => {
  const shape = editor.region?.shape;
  assert.ok(shape && "x" in shape);
  return [shape.x, shape.y, shape.width, shape.height];
};

test("drawing a rectangle and an ellipse: one undo step, one final message each", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.4, 0.9]);
  drawBox(editor, "ellipse", [0.5, 0.1], [0.9, 0.9]);
  assert.deepEqual(
    editor.doc.regions.map((region) => region.shape.type),
    ["rect", "ellipse"],
  );
  assert.deepEqual(
    told.map(({ final }) => final),
    [true, true],
  );
  assert.equal(editor.tool, "select");
  assert.deepEqual(boxOf(editor), [0.5, 0.1, 0.4, 0.8]);
  editor.undo();
  assert.equal(editor.doc.regions.length, 1);
  editor.redo();
  assert.equal(editor.doc.regions.length, 2);
});

test("shift draws squares in pixels, alt grows from the middle, the canvas border holds", () => {
  const { editor } = start();
  drawBox(editor, "rect", [0.2, 0.2], [0.3, 0.6], { shift: true });
  const [, , width, height] = boxOf(editor);
  assert.ok(Math.abs(width * SIZE.width - height * SIZE.height) < 1e-3);
  drawBox(editor, "rect", [0.5, 0.5], [0.6, 0.7], { alt: true });
  assert.deepEqual(
    boxOf(editor).map((v) => Math.round(v * 100) / 100),
    [0.4, 0.3, 0.2, 0.4],
  );
  drawBox(editor, "rect", [0.9, 0.9], [1.7, 1.4]);
  assert.deepEqual(
    boxOf(editor).map((v) => Math.round(v * 100) / 100),
    [0.9, 0.9, 0.1, 0.1],
  );
});

test("a press without a drag draws nothing and says what to do", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.1, 0.1]);
  assert.equal(editor.doc.regions.length + told.length, 0);
  assert.equal(editor.message?.[0], "say.dragToDraw");
});

test("a polygon closes on its first corner or with Enter, and Backspace takes corners back", () => {
  const { editor } = start();
  editor.use("polygon");
  for (const [x, y] of [
    [0.1, 0.1],
    [0.9, 0.1],
    [0.5, 0.9],
  ])
    begin(editor, at(x, y));
  begin(editor, at(0.1, 0.1));
  assert.equal(editor.region?.shape.type, "polygon");
  editor.use("polygon");
  for (const [x, y] of [
    [0.1, 0.1],
    [0.9, 0.1],
    [0.8, 0.5],
    [0.5, 0.9],
  ])
    begin(editor, at(x, y));
  press(editor, "Backspace");
  press(editor, "Enter");
  const shape = editor.region?.shape;
  assert.ok(shape?.type === "polygon");
  assert.deepEqual(shape.points, [
    [0.1, 0.1],
    [0.9, 0.1],
    [0.8, 0.5],
  ]);
  editor.use("polygon");
  for (const x of [0.1, 0.5, 0.9]) begin(editor, at(x, 0.5));
  press(editor, "Enter");
  assert.equal(editor.doc.regions.length, 2, "a flat polygon is refused");
});

test("a polygon closes where its first click was, however far the grid has drawn that corner from it", () => {
  const { editor } = start();
  editor.use("polygon");
  const clicks = [
    [0.115, 0.125],
    [0.9, 0.1],
    [0.5, 0.9],
  ];
  assert.equal(editor.snap, 8, "of 800 by 400 pixels: it moves the first click by more than the reach");
  for (const [x, y] of [...clicks, clicks[0]]) begin(editor, at(x, y, { free: false, reach: { x: 0.003, y: 0.003 } }));
  assert.equal(editor.region?.shape.type, "polygon");
  assert.equal(editor.corners, null);
});

test("a corner is dragged, made from the middle of an edge, and removed with alt", () => {
  const { editor } = start();
  editor.use("polygon");
  for (const [x, y] of [
    [0.1, 0.1],
    [0.9, 0.1],
    [0.5, 0.9],
  ])
    begin(editor, at(x, y));
  press(editor, "Enter");
  const points = () => /** @type {import("../../web/regions/model.js").PolygonShape} */ (editor.region?.shape).points;
  drag(editor, [0.9, 0.1], [0.8, 0.2]);
  assert.deepEqual(points()[1], [0.8, 0.2]);
  drag(editor, [0.65, 0.55], [0.9, 0.7]);
  assert.deepEqual(points(), [
    [0.1, 0.1],
    [0.8, 0.2],
    [0.9, 0.7],
    [0.5, 0.9],
  ]);
  drag(editor, [0.9, 0.7], [0.9, 0.7], { alt: true });
  assert.equal(points().length, 3);
  drag(editor, [0.8, 0.2], [0.8, 0.2], { alt: true });
  assert.equal(points().length, 3, "three corners stay");
});

test("moving keeps regions on the canvas; a click only selects; alt reaches what lies below; locked stays", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  drawBox(editor, "rect", [0.2, 0.2], [0.6, 0.6]);
  told.length = 0;
  drag(editor, [0.9, 0.9], [0.9, 0.9]);
  assert.equal(editor.selected, null);
  drag(editor, [0.3, 0.3], [0.3, 0.3]);
  assert.equal(editor.selected, "r2");
  drag(editor, [0.3, 0.3], [0.3, 0.3], { alt: true });
  assert.equal(editor.selected, "r1");
  assert.equal(told.length, 0);
  drag(editor, [0.3, 0.3], [5, -5]);
  assert.deepEqual(boxOf(editor), [0.6, 0, 0.4, 0.4]);
  editor.edit("r1", { ui: { locked: true } });
  drag(editor, [0.9, 0.3], [0.5, 0.5]);
  assert.deepEqual(boxOf(editor), [0.6, 0, 0.4, 0.4]);
  press(editor, "Delete");
  assert.equal(editor.doc.regions.length, 2);
});

test("handles resize, also past the opposite side, with proportions kept by shift", () => {
  const { editor } = start();
  drawBox(editor, "rect", [0.2, 0.2], [0.6, 0.6]);
  drag(editor, [0.6, 0.6], [0.8, 0.9]);
  assert.deepEqual(boxOf(editor), [0.2, 0.2, 0.6, 0.7]);
  drag(editor, [0.8, 0.55], [0.1, 0.55]);
  assert.deepEqual(boxOf(editor), [0.1, 0.2, 0.1, 0.7]);
  const before = boxOf(editor);
  drag(editor, [0.2, 0.9], [0.15, 0.9], { shift: true });
  const after = boxOf(editor);
  assert.ok(Math.abs(after[2] / after[3] - before[2] / before[3]) < 1e-3);
});

test("snapping: to other regions, to the canvas, to the pixel grid, and off with ctrl", () => {
  const { editor } = start();
  drawBox(editor, "rect", [0, 0], [0.37, 0.5]);
  editor.snap = 8;
  drawBox(editor, "rect", [0.372, 0.61], [0.7, 0.985], { free: false });
  const [x, y, width, height] = boxOf(editor);
  assert.equal(x, 0.37);
  assert.equal(y + height, 1);
  assert.equal(Math.round((x + width) * SIZE.width) % 8, 0);
  assert.equal(Math.round(y * SIZE.height) % 8, 0);
});

test("the brush makes one region and goes on painting on it; the eraser cuts any shape; nothing left removes it", () => {
  const { editor, told } = start();
  editor.use("brush");
  drag(editor, [0.3, 0.5], [0.5, 0.5]);
  drag(editor, [0.5, 0.5], [0.7, 0.5]);
  assert.equal(editor.doc.regions.length, 1);
  assert.equal(editor.region?.shape.type, "mask");
  assert.equal(told.length, 2);
  drawBox(editor, "rect", [0, 0], [0.2, 0.4]);
  editor.use("eraser");
  drag(editor, [0.1, 0.2], [0.1, 0.2]);
  assert.equal(editor.region?.shape.type, "mask");
  editor.brush = 0.5;
  drag(editor, [0, 0], [0.3, 0.4]);
  assert.equal(editor.doc.regions.length, 1);
  assert.equal(editor.message?.[0], "say.erasedAll");
  editor.undo();
  assert.equal(editor.doc.regions.length, 2);
  drawBox(editor, "ellipse", [0.5, 0], [0.9, 0.9]);
  const { region } = editor;
  if (region) makePaintable(editor, region);
  assert.equal(editor.region?.shape.type, "mask");
});

test("cancelling a gesture leaves no trace", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  const before = editor.value;
  const gesture = begin(editor, at(0.3, 0.3));
  gesture?.move(at(0.6, 0.6));
  editor.cancel();
  assert.equal(editor.value, before);
  assert.deepEqual(boxOf(editor), [0.1, 0.1, 0.4, 0.4]);
  assert.equal(told.length, 1);
});

test("keys: arrows, tab, numbers, order, duplicate, brush, tools; unknown keys go to the host", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  told.length = 0;
  press(editor, "ArrowRight");
  press(editor, "ArrowRight", { shiftKey: true });
  assert.equal(Math.round(boxOf(editor)[0] * SIZE.width), 91);
  press(editor, "ArrowDown", { altKey: true });
  assert.equal(Math.round(boxOf(editor)[3] * SIZE.height), 161);
  editor.settle();
  assert.ok(told.at(-1)?.final && told.slice(0, -1).every(({ final }) => !final));
  press(editor, "d", { ctrlKey: true });
  assert.equal(editor.doc.regions.length, 2);
  press(editor, "Tab");
  assert.equal(editor.selected, "r1");
  press(editor, "Tab");
  assert.equal(editor.selected, BACKGROUND);
  assert.equal(press(editor, "Tab"), false, "tab leaves after the last entry");
  press(editor, "1");
  assert.equal(editor.selected, "r1", "the number on its badge, and in the server's preview");
  press(editor, "2");
  assert.equal(editor.selected, "r2");
  press(editor, "PageDown");
  assert.deepEqual(
    editor.doc.regions.map((region) => region.id),
    ["r2", "r1"],
  );
  const { brush } = editor;
  press(editor, "]");
  assert.ok(editor.brush > brush);
  press(editor, "b");
  assert.equal(editor.tool, "brush");
  press(editor, "Escape");
  assert.equal(editor.tool, "select");
  press(editor, "z", { ctrlKey: true });
  press(editor, "z", { ctrlKey: true });
  assert.equal(editor.doc.regions.length, 1);
  press(editor, "z", { ctrlKey: true, shiftKey: true });
  assert.equal(editor.doc.regions.length, 2);
  for (const [key, more] of /** @type {[string, object][]} */ ([
    ["Enter", { ctrlKey: true }],
    ["s", { ctrlKey: true }],
    ["F5", {}],
    ["q", {}],
  ])) {
    assert.equal(press(editor, key, more), false, key);
  }
});

test("typing is one undo step per field", () => {
  const { editor, told } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  for (const prompt of ["m", "ma", "mara"]) editor.edit("r1", { prompt }, "prompt r1");
  editor.settle();
  for (const prompt of ["mara,", "mara, red"]) editor.edit("r1", { prompt }, "prompt r1");
  assert.deepEqual(
    told.map(({ final }) => final),
    [true, false, false, false, true, false, false],
  );
  editor.undo();
  assert.equal(editor.region?.prompt, "mara");
  editor.undo();
  assert.equal(editor.region?.prompt, "");
});

test("a value from outside replaces all, is not rewritten, and another size is reported", () => {
  const { editor, told } = start();
  const text =
    '{"version":1,"width":512,"height":512,"regions":[{"id":"a","shape":{"type":"rect","x":0,"y":0,"width":1,"height":1}}]}';
  editor.load(text);
  assert.equal(editor.value, text);
  assert.equal(told.length, 0);
  assert.equal(editor.stretched?.[0], "note.otherSize");
  editor.resize({ width: 300, height: 300 });
  assert.equal(editor.stretched, null, "the same proportions are fine");
  assert.equal(editor.value, text);
  editor.load("{broken");
  assert.equal(editor.value, "{broken", "what could not be read stays until the first edit");
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  assert.deepEqual(editor.notes, []);
});

test("the number of regions and of bytes is limited, and both are said", () => {
  const { editor } = start();
  for (let n = 0; n < 70; n += 1) drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  assert.equal(editor.doc.regions.length, LIMITS.regions);
  assert.equal(editor.message?.[0], "say.full");
  const next = random(3);
  const runs = () => Array.from({ length: 16_000 }, () => 1 + Math.floor(next() * 8));
  const big = () => {
    const list = runs();
    const total = list.reduce((sum, run) => sum + run, 0);
    return { type: /** @type {const} */ ("mask"), width: 4096, height: 4096, runs: [...list, 4096 * 4096 - total] };
  };
  let accepted = 0;
  for (const region of editor.doc.regions.slice(0, 20)) accepted += Number(editor.edit(region.id, { shape: big() }));
  assert.ok(accepted > 2 && accepted < 20, String(accepted));
  assert.equal(editor.message?.[0], "say.tooBig");
});

test("200 steps can be undone", () => {
  const { editor } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.5, 0.5]);
  for (let n = 0; n < 300; n += 1) editor.edit("r1", { prompt: String(n) });
  let undone = 0;
  while (editor.history.canUndo) {
    editor.undo();
    undone += 1;
  }
  assert.equal(undone, 200);
});

test("on an empty canvas a drag draws a box, until somebody chooses a tool", () => {
  const { editor } = start();
  assert.equal(editor.tool, "rect");
  drag(editor, [0.1, 0.1], [0.4, 0.9]);
  assert.deepEqual([editor.doc.regions.length, editor.tool], [1, "select"]);
  press(editor, "Delete");
  assert.equal(editor.tool, "select", "drawing was somebody's choice");
  const { value } = editor;
  assert.equal(start(value).editor.tool, "rect");
  const filled = start(
    JSON.stringify({ version: 1, regions: [{ id: "a", shape: { type: "rect", x: 0, y: 0, width: 1, height: 1 } }] }),
  );
  assert.equal(filled.editor.tool, "select");
  filled.editor.load(value);
  assert.equal(filled.editor.tool, "rect");
});

test("a region that an error names is chosen and marked until the next edit", () => {
  const { editor } = start();
  drawBox(editor, "rect", [0.1, 0.1], [0.4, 0.4]);
  drawBox(editor, "rect", [0.5, 0.5], [0.9, 0.9]);
  editor.blame("Place: region 'Region 1' names concept 'zoe', which CLIP does not know.");
  assert.deepEqual([editor.blamed?.id, editor.selected], ["r1", "r1"]);
  editor.blame("");
  assert.equal(editor.blamed, null);
  editor.blame("Regions: region 2 covers no pixel");
  press(editor, "ArrowLeft");
  assert.deepEqual([editor.blamed, editor.selected], [null, "r2"]);
});
