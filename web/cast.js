/** Registers the cast's list with ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { mountCast } from "./cast/view.js";
import { chain, leavePlace, snapshot, takeLeftPlace } from "./regions/glue.js";
import { book } from "./sources.js";

const MIN = { width: 460, height: 260 };
const texts = {};
/** @type {Map<string, import("./cast/view.js").Facts | null>} */
const known = new Map();
const listeners = new Set();
/** @type {string[]} */
let files = [];

const tell = () => listeners.forEach((listener) => listener());

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

async function refreshFiles() {
  files = await (await api.fetchApi("/mixofshow/files")).json();
  known.clear();
  tell();
}

function makeCastWidget(node, inputName, inputData) {
  const element = document.createElement("div");
  element.className = "widget-expands"; // in Nodes 2.0 such a widget takes the room that is left
  element.style.cssText = `height: 100%; min-height: ${MIN.height - 20}px; display: grid`;
  const own = new Set();
  let value = inputData?.[1]?.default ?? "";
  const widget = node.addDOMWidget(inputName, "MOS_CAST", element, {
    getValue: () => value,
    setValue: (text) => {
      value = typeof text === "string" ? text : "";
      own.forEach((listener) => listener(value));
      book.tell(); // a cast that was loaded, or undone, brings other names
    },
    getMinHeight: () => MIN.height,
    hideOnZoom: false,
  });
  const change = (text, final) => {
    value = text;
    widget.callback?.(text);
    if (final) snapshot(app);
  };
  const subscribe = (listener) => {
    own.add(listener);
    listeners.add(listener);
    return () => (own.delete(listener), listeners.delete(listener));
  };
  const cleanup = mountCast(element, { value, texts, change, facts: factsOf, files: () => files, subscribe });
  chain(widget, "onRemove", () => (cleanup(), leavePlace(element, node)));
  chain(node, "onAdded", () => setTimeout(takeLeftPlace, 60, element, node));
  return { widget, minWidth: MIN.width, minHeight: MIN.height };
}

app.registerExtension({
  name: "MixOfShow.Cast",
  getCustomWidgets: () => ({ MOS_CAST: makeCastWidget }),
  async init() {
    const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    if (locale !== "en") Object.assign(texts, (await (await api.fetchApi("/i18n")).json())[locale]?.mixofshowEditor);
    refreshFiles();
  },
  setup: () => api.addEventListener("execution_success", refreshFiles), // it may have trained or fused one
  refreshComboInNodes: refreshFiles,
});
