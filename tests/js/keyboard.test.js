/** Drawing without a pointer: the crosshair, and the corners as text. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { readCorners } from "../../web/regions/numbers.js";
import { handleKey } from "../../web/regions/keys.js";
import { Editor } from "../../web/regions/state.js";

const SIZE = { width: 512, height: 256 };

/** An editor, how often it ended a gesture, and keys pressed one by one. */
function start() {
  const seen = { final: 0 };
  const editor = new Editor("", SIZE, { changed: (_, final) => void (seen.final += Number(final)) });
  const press = (/** @type {string[]} */ ...keys) => {
    for (const key of keys) {
      const shiftKey = key.startsWith("Shift+");
      const event = { key: key.replace("Shift+", ""), ctrlKey: false, metaKey: false, altKey: false, shiftKey };
      assert.equal(
        handleKey(editor, /** @type {KeyboardEvent} */ (event), { escape: () => false, zoom: () => {} }),
        true,
      );
    }
  };
  return { editor, seen, press };
}

test("a box: Enter, arrows, Enter; the arrows move the crosshair by the snap", () => {
  const { editor, seen, press } = start();
  press("r", "ArrowLeft", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "ArrowDown", "Enter");
  const shape = editor.region?.shape;
  assert.deepEqual(shape, { type: "rect", x: 248 / 512, y: 0.5, width: 80 / 512, height: 88 / 256 });
  assert.equal(seen.final, 1, "one undo step");
  press("ArrowRight");
  assert.equal(editor.region?.shape.type === "rect" && editor.region.shape.x, 0.486328, "now they move the region");
});

test("a polygon: Enter at every corner, twice at the last", () => {
  const { editor, press } = start();
  press("p", "ArrowLeft", "Enter", "Shift+ArrowRight", "Enter", "Shift+ArrowDown", "Enter", "Enter");
  assert.equal(editor.region?.shape.type === "polygon" && editor.region.shape.points.length, 3);
});

test("brush and eraser: a stroke from Enter to Enter", () => {
  const { editor, seen, press } = start();
  press("b", "ArrowLeft", "Enter", "Shift+ArrowRight", "Enter");
  const area = () => editor.region?.shape.type === "mask" && editor.region.shape.runs.filter((_, n) => n % 2);
  const before = area();
  assert.equal(editor.region?.shape.type, "mask");
  press("e", "ArrowRight", "Enter", "ArrowRight", "Enter");
  assert.notDeepEqual(area(), before);
  assert.equal(seen.final, 2);
});

test("Escape and another tool leave nothing half drawn", () => {
  const { editor, seen, press } = start();
  press("o", "ArrowLeft", "Enter", "Shift+ArrowRight");
  assert.ok(editor.held);
  press("Escape");
  assert.deepEqual([editor.held, editor.tool, editor.doc.regions.length], [null, "ellipse", 0]);
  press("ArrowLeft", "Enter", "Shift+ArrowRight", "b");
  assert.deepEqual([editor.held, editor.cross, editor.doc.regions.length, seen.final], [null, null, 0, 0]);
});

test("corners as text: pixels to fractions; what is no polygon is refused", () => {
  assert.deepEqual(readCorners("0, 0; 512, 0; 256 128;", SIZE), [
    [0, 0],
    [1, 0],
    [0.5, 0.5],
  ]);
  for (const text of ["", "1,2;3,4", "0,0;1,0;2,0", "0,0;1,x;5,5", "0,0,0;1,1;2,3", `${"1,1;".repeat(300)}5,9`])
    assert.equal(readCorners(text, SIZE), null, text);
});
