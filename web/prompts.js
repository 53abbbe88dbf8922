/** Concept names are completed in Place's prompts, as in those of regions. Both renderers' text areas lie in one element. */

import { app } from "../../scripts/app.js";
import { factsOf } from "./facts.js";
import { makeCompleter } from "./regions/complete.js";
import { STYLE } from "./regions/style.js";
import { translator } from "./regions/texts.js";
import { CARRIERS, findConceptNames } from "./regions/upstream.js";
import { book } from "./sources.js";
import { texts } from "./widget.js";

const PLACE = "MixOfShowPlace";
const WITH_CLIP = new Set([...CARRIERS, "CLIP", "MIXOFSHOW_REGIONS"]); // Fuse's CLIP knows the names, too

/** The Place that a text area belongs to. @param {any} field */
function placeOf(field) {
  if (field?.tagName !== "TEXTAREA" || field.readOnly) return null;
  const graph = app.canvas.graph;
  const id = /** @type {HTMLElement | null} */ (field.closest("[data-node-id]"))?.dataset.nodeId;
  const node = id
    ? graph.getNodeById(Number(id)) // Nodes 2.0
    : graph.nodes.find(({ widgets }) => widgets?.some((/** @type {any} */ { element }) => element === field));
  return node?.comfyClass === PLACE ? node : null;
}

/** @param {any} node @returns {import("./regions/panel.js").Concepts} */
function conceptsOf(node) {
  const found = ["concepts", "clip", "regions"].map((input) =>
    findConceptNames(node, (file) => book.namesIn(file), input, WITH_CLIP),
  );
  const files = Object.entries(Object.assign({}, ...found.map(({ files }) => files)));
  return {
    names: [...new Set(found.flatMap(({ names }) => names))],
    complete: false,
    pictures: Object.fromEntries(files.map(([name, file]) => [name, factsOf(file)?.picture])),
  };
}

app.registerExtension({
  name: "MixOfShow.Prompts",
  setup() {
    const host = app.canvas.canvas.parentElement;
    const layer = document.createElement("div");
    layer.style.cssText = "position: fixed; inset: 0; z-index: 1001; pointer-events: none";
    const style = document.createElement("style");
    style.textContent = STYLE;
    layer.append(style);
    host.append(layer);
    const complete = makeCompleter(layer, translator(texts));
    host.addEventListener("input", (/** @type {Event} */ { target }) => {
      const node = placeOf(target);
      if (node) complete.show(/** @type {HTMLTextAreaElement} */ (target), conceptsOf(node));
    });
    host.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => void complete.key(event), true);
    for (const name of ["focusout", "wheel"]) host.addEventListener(name, complete.close);
  },
});
