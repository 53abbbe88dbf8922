/** What concept files bring, for the region editor: asked of the server, anew when a person or a run changes them. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { forgetFacts } from "./facts.js";
import { NameBook } from "./names.js";
import { chain } from "./regions/glue.js";
import { SAYING, SOURCES } from "./regions/upstream.js";

export const book = new NameBook(async (/** @type {string} */ file) => {
  const answer = await api.fetchApi(`/mixofshow/names?${new URLSearchParams({ file })}`);
  return (await answer.json()).names;
});

/** @param {() => void} look @returns {() => void} stops */
export function watchNames(look) {
  book.listeners.add(look);
  return () => book.listeners.delete(look);
}

const forget = () => (book.forget(), forgetFacts());

app.registerExtension({
  name: "MixOfShow.Sources",
  nodeCreated(/** @type {any} */ node) {
    if (!SOURCES.has(node.comfyClass)) return;
    for (const widget of node.widgets ?? [])
      if (SAYING.includes(widget.name)) chain(widget, "callback", () => book.tell());
  },
  setup: () => api.addEventListener("execution_success", forget), // it may have trained one
  refreshComboInNodes: forget,
});
