/** Registers the cast's list with ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { mountCast } from "./cast/view.js";
import { factsOf, tellFacts, watchFacts } from "./facts.js";
import { book } from "./sources.js";
import { makeTextWidget, texts } from "./widget.js";

const MIN = { width: 460, height: 260 };
/** How many casts stand in the graph. */
let casts = 0;
/** @type {string[]} */
let files = [];
let asked = false;

/** Only where a cast stands: other workflows need no list of files. */
async function refreshFiles() {
  asked = casts > 0;
  if (!asked) return;
  files = await (await api.fetchApi("/mixofshow/files")).json();
  tellFacts();
}

function makeCastWidget(node, inputName, inputData) {
  const own = new Set();
  const { element, widget, value, change, onRemove } = makeTextWidget(node, inputName, inputData, {
    kind: "MOS_CAST",
    height: MIN.height,
    heard(text) {
      own.forEach((listener) => listener(text));
      book.tell(); // a cast that was loaded, or undone, brings other names
    },
  });
  const subscribe = (listener) => {
    own.add(listener);
    casts += 1;
    const leave = watchFacts(() => listener());
    return () => (own.delete(listener), leave(), (casts -= 1));
  };
  const cleanup = mountCast(element, { value, texts, change, facts: factsOf, files: () => files, subscribe });
  onRemove(cleanup);
  if (!asked) refreshFiles();
  return { widget, minWidth: MIN.width, minHeight: MIN.height };
}

app.registerExtension({
  name: "MixOfShow.Cast",
  getCustomWidgets: () => ({ MOS_CAST: makeCastWidget }),
  setup: () => api.addEventListener("execution_success", refreshFiles), // it may have trained or fused one
  refreshComboInNodes: refreshFiles,
});
