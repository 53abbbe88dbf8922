/** What Found Places has found becomes regions of a Regions node, concept by concept, at the press of a button. */

import { app } from "../../scripts/app.js";
import { takeFound } from "./regions/found.js";
import { chain, snapshot } from "./regions/glue.js";
import { translator } from "./regions/texts.js";
import { texts } from "./widget.js";

const BUTTON = "adopt what was found";

/** The Regions node that is meant: the selected one, else the only one. */
function target() {
  const all = app.graph.nodes.filter((/** @type {any} */ node) => node.comfyClass === "MixOfShowRegions");
  const chosen = all.filter((/** @type {any} */ node) => app.canvas?.selected_nodes?.[node.id]);
  return chosen.length === 1 ? chosen[0] : all.length === 1 ? all[0] : null;
}

/** @param {string} message */
const tell = (message) =>
  app.extensionManager?.toast?.add({ severity: "warn", summary: "Mix-of-Show", detail: message, life: 8000 });

/** @param {any} node */
function addButton(node) {
  const say = translator(texts);
  /** @type {string | undefined} */
  let found;
  chain(node, "onExecuted", (/** @type {any} */ output) => (found = output?.mixofshow_found?.[0]));
  const press = () => {
    const regions = target();
    const editor = regions?.widgets?.find((/** @type {any} */ widget) => widget.name === "editor");
    if (!found) return tell(say("found.run"));
    if (!editor) return tell(say("found.target"));
    editor.value = takeFound(editor.value, found);
    snapshot(app);
  };
  const button = node.addWidget("button", BUTTON, null, press, { serialize: false });
  button.label = say("found.adopt");
  button.serialize = false;
}

app.registerExtension({
  name: "MixOfShow.Found",
  nodeCreated: (/** @type {any} */ node) => void (node.comfyClass === "MixOfShowFound" && addButton(node)),
});
