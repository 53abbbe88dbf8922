/** The fields of the chosen region and of the background. Typing is one undo step per field and visit. */

import { el, labelled, setField } from "./dom.js";
import { LIMITS, PATTERNS, renameRegion } from "./model.js";
import { cornersField, placeField, slider } from "./numbers.js";
import { BACKGROUND } from "./state.js";
import { textButton } from "./toolbar.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./panel.js").PanelContext} PanelContext
 */

let lists = 0;

/**
 * Typing in one field is one step; what the browser's own undo and redo do to its text are steps of their own, so that
 * the editor's Undo brings the text back. @param {Editor} editor @param {Event} event @param {string} key
 */
function mergeKey(editor, event, key) {
  if (!(/** @type {InputEvent} */ (event).inputType?.startsWith("history"))) return key;
  editor.settle();
  return undefined;
}

/**
 * A text field with suggestions; an unknown name is marked at once.
 * @param {Editor} editor @param {PanelContext} context @param {(value: string, event: Event) => void} change
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
    oninput: (/** @type {Event} */ event) => change(input.value, event),
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

export const fold = (/** @type {string} */ text) => text.normalize("NFKC").toLowerCase();

/** As the server compares: without case and width and without < >. @param {string} a @param {string} b */
export const sameName = (a, b) => fold(a) === fold(b).replace(/^[<>]+|[<>]+$/g, "");

/** Whether no concept can have this name. @param {string} value @param {import("./panel.js").Concepts} known */
export const isUnknown = (value, known) =>
  value !== "" && known.complete && !known.names.some((name) => sameName(name, value));

/** The address of a concept's picture. @param {string} concept @param {import("./panel.js").Concepts} known */
export function pictureOf(concept, known) {
  const name = concept && known.names.find((other) => sameName(other, concept));
  return name ? known.pictures?.[name] : undefined;
}

/** @param {import("./texts.js").Translate} t @param {import("./panel.js").Concepts} known */
export const unknownText = (t, known) => t("concept.unknown", { names: known.names.join(", ") || "-" });

/** @param {Editor} editor @param {PanelContext} context */
export function makeRegionFields(editor, context) {
  const t = context.translate;
  /** @param {Event} event @param {Partial<import("./model.js").Region>} change @param {string} field */
  const type = (event, change, field) => {
    const { region } = editor;
    if (region) editor.edit(region.id, change, mergeKey(editor, event, `${field} ${region.id}`));
  };
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
    oninput: (/** @type {Event} */ event) => {
      type(event, { prompt: prompt.value }, "prompt");
      context.complete.show(prompt, context.concepts());
    },
    onkeydown: context.complete.key,
    onblur: context.complete.close,
    onchange: settle,
  });
  const negative = el("textarea", {
    rows: 2,
    maxLength: LIMITS.text,
    placeholder: t("negative.hint"),
    oninput: (/** @type {Event} */ event) => type(event, { negative: negative.value }, "negative"),
    onchange: settle,
  });
  const concept = conceptField(editor, context, (value, event) => type(event, { concept: value.trim() }, "concept"));
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
  const paintable = textButton(t("paintable"), () => context.paintable(), "brush");
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
      const fixed = region.shape.type === "input" ? !context.adoptable(region) : region.shape.type === "mask";
      paintable.hidden = fixed || Boolean(region.ui.locked);
      setField(color, String(region.ui.color));
      setField(pattern, String(region.ui.pattern));
    },
  };
}

/** @param {Editor} editor @param {PanelContext} context */
export function makeBackgroundFields(editor, context) {
  const t = context.translate;
  /** @param {Partial<Doc>} change @param {string} [merge] */
  const edit = (change, merge) => editor.commit({ ...editor.doc, ...change }, merge ? { merge } : {});
  const concept = conceptField(editor, context, (value, event) =>
    edit({ background: { ...editor.doc.background, concept: value.trim() } }, mergeKey(editor, event, "background")),
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
    oninput: (/** @type {Event} */ event) => edit({ suffix: suffix.value }, mergeKey(editor, event, "suffix")),
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
