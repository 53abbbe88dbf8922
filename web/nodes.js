/** What all our nodes share in the front end: they show what their last run said, and old files load right. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";
import { chain } from "./regions/glue.js";
import { dropSeedControls } from "./saved.js";

const NAME = "mixofshow_result";
const LINE = "$$node-text-preview"; // the host's line of progress; 1.32 leaves it on the node for ever
const [LINES, ROW, FRAME] = [6, 17, 30];
/** @type {WeakMap<any, string>} what a node's last run said; a node that is not run again keeps it */
const own = new WeakMap();
/** @type {Map<any, string[]>} what was said to nodes in this run alone, below that */
const said = new Map();

/** @param {any} node */
const isOurs = (node) => Boolean(node?.comfyClass?.startsWith("MixOfShow"));

/** @param {any} node */
function showResults(node) {
  chain(node, "onExecuted", (/** @type {any} */ output) => {
    const text = [output?.text ?? []].flat().join("\n");
    if (output?.images) delete app.nodePreviewImages?.[node.id]; // else the last live preview stays over the result
    clearLine(node);
    if (!text) return;
    own.set(node, text);
    show(node);
  });
}

/** Words beside the results: of a node that was stopped, or of one whose conditioning is sampled. */
function hear(/** @type {any} */ { detail }) {
  const node = at(String(detail.node));
  if (!isOurs(node)) return;
  clearLine(node);
  if (!detail.add) own.set(node, detail.text);
  else said.set(node, [...new Set([...(said.get(node) ?? []), detail.text])]);
  show(node);
}

/** What was said in the run before is not true of the next one. */
function forget() {
  const nodes = [...said.keys()];
  said.clear();
  nodes.forEach(show);
}

/** The node with this id; `12:3` is node 3 in the subgraph of node 12. */
function at(/** @type {string} */ id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of id.split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

/** @param {any} node */
function clearLine(node) {
  const line = node.widgets?.find((/** @type {any} */ widget) => widget.name === LINE);
  if (line) node.removeWidget?.(line);
}

const clearLines = () => app.graph?.nodes.filter(isOurs).forEach(clearLine);

/** @param {any} node */
const find = (node) => node.widgets?.find((/** @type {any} */ widget) => widget.name === NAME);

/** The widget is made at the first run, not with the node: a node that has nothing to say takes no room for it. */
function show(/** @type {any} */ node) {
  const text = [own.get(node) ?? [], said.get(node) ?? []].flat().join("\n");
  const widget = find(node) ?? add(node);
  widget.value = text;
  const height = FRAME + ROW * Math.min(LINES, text.split("\n").length);
  if (widget.options.height >= height) return;
  widget.options.height = height;
  widget.options.getMinHeight = () => height;
  const [width, least] = node.computeSize();
  node.setSize?.([Math.max(node.size[0], width), Math.max(node.size[1], least)]);
}

/** @param {any} node */
function add(node) {
  const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.label = "result";
  widget.serialize = false; // neither in the workflow ...
  widget.options.serialize = false; // ... nor in what is queued
  widget.options.read_only = true;
  if (widget.inputEl) widget.inputEl.readOnly = true;
  return widget;
}

app.registerExtension({
  name: "MixOfShow.Nodes",
  setup() {
    api.addEventListener("mixofshow_said", hear);
    api.addEventListener("execution_start", forget);
    for (const end of ["execution_interrupted", "execution_error"]) api.addEventListener(end, clearLines);
  },
  beforeConfigureGraph: dropSeedControls,
  nodeCreated: (/** @type {any} */ node) => void (isOurs(node) && showResults(node)),
});
