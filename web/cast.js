/** Registers the cast's list with ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { mountCast } from "./cast/view.js";
import { book } from "./sources.js";
import { makeTextWidget, texts } from "./widget.js";

const MIN = { width: 460, height: 260 };
/** @type {Map<string, import("./cast/view.js").Facts | null>} */
const known = new Map();
const listeners = new Set();
/** @type {string[]} */
let files = [];
let asked = false;
let frame = 0;

/** Answers come one by one, for two hundred files of a list: all listeners look once a frame. */
function tell() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    listeners.forEach((listener) => listener());
  });
}

/** What the server knows of a file; asked once, and again after `forget`. @param {string} file */
function factsOf(file) {
  if (!known.has(file)) {
    known.set(file, null);
    const query = new URLSearchParams({ file });
    api
      .fetchApi(`/mixofshow/facts?${query}`)
      .then((answer) => answer.json())
      .then((facts) => {
        const picture = facts.picture ? api.apiURL(`/mixofshow/picture?${query}`) : "";
        known.set(file, { ...facts, picture });
        tell();
      })
      .catch(() => known.delete(file));
  }
  return known.get(file) ?? null;
}

/** Only where a cast stands: other workflows need no list of files. */
async function refreshFiles() {
  asked = listeners.size > 0;
  if (!asked) return;
  files = await (await api.fetchApi("/mixofshow/files")).json();
  known.clear();
  tell();
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
    listeners.add(listener);
    return () => (own.delete(listener), listeners.delete(listener));
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
