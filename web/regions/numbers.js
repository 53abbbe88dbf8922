/** Fields of a region that hold numbers: sliders, position and size in pixels, a polygon's corners as text. */

import { el, labelled, setField } from "./dom.js";
import { boundsOf, fitInto, keepInside } from "./geometry.js";
import { clamp, LIMITS, NUMBERS, round6 } from "./model.js";

/** @typedef {import("./state.js").Editor} Editor */

/** @param {Editor} editor @param {string} label @param {keyof typeof NUMBERS} field */
export function slider(editor, label, field) {
  const [low, high] = NUMBERS[field];
  const top = field === "weight" || field === "control" ? 3 : high;
  const change = (/** @type {string} */ text, /** @type {string | undefined} */ merge) => {
    const { region } = editor;
    if (!region || text.trim() === "" || !Number.isFinite(Number(text))) return;
    let value = clamp(Number(text), low, high);
    if (field === "start") value = Math.min(value, region.end - 0.01);
    if (field === "end") value = Math.max(value, region.start + 0.01);
    editor.edit(region.id, { [field]: value }, merge && `${field} ${region.id}`);
  };
  const range = el("input", {
    type: "range",
    min: String(low),
    max: String(top),
    step: "0.01",
    "aria-label": label,
    oninput: () => change(range.value, "drag"),
    onchange: () => editor.settle(),
  });
  const number = el("input", {
    type: "number",
    min: String(low),
    max: String(high),
    step: "0.01",
    "aria-label": label,
    onchange: () => change(number.value, undefined),
  });
  const root = el("div", { className: "mos-field" }, [
    el("span", { textContent: label }),
    el("div", { className: "mos-slide" }, [range, number]),
  ]);
  return {
    root,
    update(/** @type {import("./model.js").Region} */ region) {
      setField(range, String(Math.min(top, region[field])));
      setField(number, String(Math.round(region[field] * 1000) / 1000));
    },
  };
}

/**
 * Position and size in pixels: the way to place a region without a pointer.
 * @param {Editor} editor @param {string} label @param {"x" | "y" | "width" | "height"} side
 */
export function placeField(editor, label, side) {
  const unit = () => (side === "x" || side === "width" ? editor.size.width : editor.size.height);
  const input = el("input", {
    type: "number",
    step: "1",
    onchange: () => {
      const { region } = editor;
      if (!region || region.ui.locked || input.value === "" || !Number.isFinite(Number(input.value))) return;
      const box = boundsOf(region.shape);
      const value = Number(input.value) / unit();
      const next =
        side === "width" || side === "height"
          ? { ...box, [side]: clamp(value, 1 / unit(), 1) }
          : { ...box, [side]: value };
      editor.edit(region.id, { shape: fitInto(region.shape, keepInside(next)) });
      const now = editor.region;
      if (now) input.value = text(now);
    },
  });
  const text = (/** @type {import("./model.js").Region} */ region) =>
    String(tenths(boundsOf(region.shape)[side] * unit()));
  return {
    root: labelled(label, input),
    update(/** @type {import("./model.js").Region} */ region) {
      setField(input, text(region));
      input.disabled = Boolean(region.ui.locked);
    },
  };
}

/**
 * A polygon's corners as pixels, "x, y; x, y; ...": adding, moving and removing them without a pointer.
 * @param {Editor} editor @param {string} label
 */
export function cornersField(editor, label) {
  const input = el("input", {
    type: "text",
    onchange: () => {
      const { region, size } = editor;
      if (region?.shape.type !== "polygon" || region.ui.locked) return;
      const points = readCorners(input.value, size);
      if (points) editor.edit(region.id, { shape: { type: "polygon", points } });
      else editor.say("say.threeCorners");
      const now = editor.region;
      if (now) input.value = text(now);
    },
  });
  const text = (/** @type {import("./model.js").Region} */ { shape }) =>
    shape.type !== "polygon"
      ? ""
      : shape.points.map(([x, y]) => `${tenths(x * editor.size.width)}, ${tenths(y * editor.size.height)}`).join("; ");
  const root = labelled(label, input);
  return {
    root,
    update(/** @type {import("./model.js").Region} */ region) {
      root.hidden = region.shape.type !== "polygon";
      setField(input, text(region));
      input.disabled = Boolean(region.ui.locked);
    },
  };
}

/** @param {number} value */
const tenths = (value) => Math.round(value * 10) / 10;

/**
 * @param {string} text @param {import("./geometry.js").Size} size
 * @returns {[number, number][] | null} null unless it says at least three corners that are not in one line
 */
export function readCorners(text, size) {
  const points = text
    .split(";")
    .filter((part) => part.trim())
    .map((part) =>
      part
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(Number),
    );
  const sound = points.every((point) => point.length === 2 && point.every(Number.isFinite));
  if (!sound || points.length < 3 || points.length > LIMITS.points) return null;
  if ([0, 1].some((axis) => points.every((point) => point[axis] === points[0][axis]))) return null;
  return points.map(([x, y]) => [round6(clamp(x / size.width, 0, 1)), round6(clamp(y / size.height, 0, 1))]);
}
