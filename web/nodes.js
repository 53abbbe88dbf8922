/** What all our nodes share in the front end: they show what their last run said, and old files load right. */

import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";
import { chain } from "./regions/glue.js";
import { dropSeedControls } from "./saved.js";

const NAME = "mixofshow_result";
const HEIGHT = 140;

/** @param {any} node */
function showResults(node) {
  chain(node, "onExecuted", (/** @type {any} */ output) => {
    const text = [output?.text ?? []].flat().join("\n");
    if (output?.images) delete app.nodePreviewImages?.[node.id]; // else the last live preview stays over the result
    if (text) (find(node) ?? add(node)).value = text; // a node that was not run again keeps its words
  });
}

/** @param {any} node */
const find = (node) => node.widgets?.find((/** @type {any} */ widget) => widget.name === NAME);

/** Made at the first run, not with the node: a node that has nothing to say takes no room for it. */
function add(/** @type {any} */ node) {
  const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.label = "result";
  widget.serialize = false; // neither in the workflow ...
  widget.options.serialize = false; // ... nor in what is queued
  widget.options.read_only = true;
  widget.options.getMinHeight = () => HEIGHT;
  if (widget.inputEl) widget.inputEl.readOnly = true;
  const [width, height] = node.computeSize();
  node.setSize?.([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  return widget;
}

app.registerExtension({
  name: "MixOfShow.Nodes",
  beforeConfigureGraph: dropSeedControls,
  nodeCreated: (/** @type {any} */ node) => void (node.comfyClass?.startsWith("MixOfShow") && showResults(node)),
});
