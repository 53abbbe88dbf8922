/** The fields of the chosen region and of the background. Typing is one undo step per field and visit. */

import { el, setField } from "./dom.js";
import { boundsOf, fitInto, keepInside } from "./geometry.js";
import { clamp, LIMITS, NUMBERS, PATTERNS, renameRegion, round6 } from "./model.js";
import { BACKGROUND } from "./state.js";
import { makePaintable } from "./tools.js";
import { textButton } from "./toolbar.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./panel.js").PanelContext} PanelContext
 */

/** @param {string} label @param {HTMLElement[]} inputs */
const labelled = (label, ...inputs) =>
  el("label", { className: "mos-field" }, [el("span", { textContent: label }), ...inputs]);

let lists = 0;

/**
 * A text field with suggestions; an unknown name is marked at once.
 * @param {Editor} editor @param {PanelContext} context @param {(value: string) => void} change
 */
function conceptField(editor, context, change) {
  const t = context.translate;
  const id = `mos-concepts-${(lists += 1)}`;
  const options = el("datalist", { id });
  const problem = el("span", { className: "mos-warn", role: "alert", hidden: true });
  const input = el("input", {
    type: "text",
    maxLength: LIMITS.name,
    list: id,
    placeholder: t("concept.none"),
    autocomplete: "off",
    oninput: () => change(input.value),
    onchange: () => editor.settle(),
    onfocus: () => offer(),
  });
  const offer = () => options.replaceChildren(...context.concepts().names.map((name) => el("option", { value: name })));
  offer();
  return {
    input,
    parts: [input, options, problem],
    update(/** @type {string} */ value) {
      setField(input, value);
      const known = context.concepts();
      const unknown = isUnknown(value, known);
      input.classList.toggle("mos-bad", unknown);
      input.setAttribute("aria-invalid", String(unknown));
      problem.hidden = !unknown;
      problem.textContent = unknown ? unknownText(t, known) : "";
    },
  };
}

/** As the server compares: without case and without < >. @param {string} a @param {string} b */
const sameName = (a, b) => a.toLowerCase() === b.replace(/^[<>]+|[<>]+$/g, "").toLowerCase();

/** Whether no concept can have this name. @param {string} value @param {import("./panel.js").Concepts} known */
export const isUnknown = (value, known) =>
  value !== "" && known.complete && !known.names.some((name) => sameName(name, value));

/** @param {import("./texts.js").Translate} t @param {import("./panel.js").Concepts} known */
export const unknownText = (t, known) => t("concept.unknown", { names: known.names.join(", ") || "-" });

/** @param {Editor} editor @param {PanelContext} context */
export function makeRegionFields(editor, context) {
  const t = context.translate;
  /** @param {Partial<import("./model.js").Region>} change @param {string} field */
  const type = (change, field) =>
    editor.region && editor.edit(editor.region.id, change, `${field} ${editor.region.id}`);
  const settle = () => editor.settle();
  const name = el("input", {
    type: "text",
    maxLength: LIMITS.name,
    onchange: () => {
      if (editor.region) editor.commit(renameRegion(editor.doc, editor.region.id, name.value));
      name.value = editor.region?.name ?? "";
    },
  });
  const prompt = el("textarea", {
    rows: 3,
    maxLength: LIMITS.text,
    placeholder: t("prompt.hint"),
    oninput: () => type({ prompt: prompt.value }, "prompt"),
    onchange: settle,
  });
  const negative = el("textarea", {
    rows: 2,
    maxLength: LIMITS.text,
    placeholder: t("negative.hint"),
    oninput: () => type({ negative: negative.value }, "negative"),
    onchange: settle,
  });
  const concept = conceptField(editor, context, (value) => type({ concept: value.trim() }, "concept"));
  const sliders = /** @type {const} */ (["strength", "feather", "start", "end", "weight", "control"]).map((field) =>
    slider(editor, t(field), field),
  );
  const place = /** @type {const} */ (["x", "y", "width", "height"]).map((side) => placeField(editor, t(side), side));
  const color = el("input", { type: "color", oninput: () => ui({ color: color.value }, "color"), onchange: settle });
  const pattern = el(
    "select",
    { onchange: () => ui({ pattern: pattern.value }) },
    PATTERNS.map((value) => el("option", { value, textContent: t(`pattern.${value}`) })),
  );
  /** @param {import("./model.js").Ui} change @param {string} [field] */
  const ui = (change, field) => {
    const { region } = editor;
    if (region) editor.edit(region.id, { ui: { ...region.ui, ...change } }, field && `${field} ${region.id}`);
  };
  const corners = cornersField(editor, t("corners"));
  const paintable = textButton(t("paintable"), () => editor.region && makePaintable(editor, editor.region), "brush");
  const [strength, feather, ...rest] = sliders;
  const places = el(
    "div",
    { className: "mos-quad" },
    place.map(({ root }) => root),
  );
  const root = el("div", { className: "mos-fields", hidden: true }, [
    labelled(t("name"), name),
    labelled(t("prompt"), prompt),
    labelled(t("concept"), ...concept.parts),
    labelled(t("negative"), negative),
    strength.root,
    feather.root,
    places,
    corners.root,
    el("details", {}, [
      el("summary", { textContent: t("details") }),
      el(
        "div",
        { className: "mos-pair" },
        rest.map((entry) => entry.root),
      ),
      el("div", { className: "mos-pair" }, [labelled(t("color"), color), labelled(t("pattern"), pattern)]),
      paintable,
    ]),
  ]);
  root.style.padding = "0";
  let shown = "";
  return {
    root,
    update() {
      const { region } = editor;
      root.hidden = !region;
      if (!region) return;
      if (shown !== region.id && root.contains(document.activeElement))
        /** @type {HTMLElement} */ (document.activeElement).blur();
      shown = region.id;
      setField(name, region.name);
      setField(prompt, region.prompt);
      setField(negative, region.negative);
      concept.update(region.concept);
      for (const entry of [...sliders, ...place]) entry.update(region);
      places.hidden = region.shape.type === "input";
      corners.update(region);
      paintable.hidden = region.shape.type === "mask" || region.shape.type === "input" || Boolean(region.ui.locked);
      setField(color, String(region.ui.color));
      setField(pattern, String(region.ui.pattern));
    },
  };
}

/** @param {Editor} editor @param {string} label @param {keyof typeof NUMBERS} field */
function slider(editor, label, field) {
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
function placeField(editor, label, side) {
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
function cornersField(editor, label) {
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

/** @param {Editor} editor @param {PanelContext} context */
export function makeBackgroundFields(editor, context) {
  const t = context.translate;
  /** @param {Partial<Doc>} change @param {string} [merge] */
  const edit = (change, merge) => editor.commit({ ...editor.doc, ...change }, merge ? { merge } : {});
  const concept = conceptField(editor, context, (value) =>
    edit({ background: { ...editor.doc.background, concept: value.trim() } }, "background"),
  );
  const choice = (/** @type {"overlap" | "edges"} */ field, /** @type {string[]} */ values) => {
    const select = el(
      "select",
      { onchange: () => edit({ [field]: select.value }) },
      values.map((value) => el("option", { value, textContent: t(`${field}.${value}`) })),
    );
    return select;
  };
  const overlap = choice("overlap", ["average", "priority"]);
  const edges = choice("edges", ["soft", "paper"]);
  const suffix = el("textarea", {
    rows: 2,
    maxLength: LIMITS.text,
    oninput: () => edit({ suffix: suffix.value }, "suffix"),
    onchange: () => editor.settle(),
  });
  const root = el("div", { className: "mos-fields", hidden: true }, [
    el("p", { textContent: t("background.text") }),
    labelled(t("background.concept"), ...concept.parts),
    labelled(t("overlap"), overlap),
    labelled(t("edges"), edges),
    labelled(t("suffix"), suffix),
  ]);
  root.style.padding = "0";
  return {
    root,
    update() {
      root.hidden = editor.selected !== BACKGROUND;
      const { doc } = editor;
      concept.update(doc.background.concept);
      setField(overlap, doc.overlap);
      setField(edges, doc.edges);
      setField(suffix, doc.suffix);
    },
  };
}
