/** What the region editor and the cast share: a widget whose value is one text, drawn by us, and its translations. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain, leavePlace, snapshot, takeLeftPlace } from "./regions/glue.js";

/** English texts are the keys' own; a language fills this in before the first node is made. @type {Record<string, string>} */
export const texts = {};

/**
 * @param {any} node @param {string} name @param {any} inputData the input's spec, for its default
 * @param {{kind: string, height: number, heard: (value: string) => void}} how `heard`: the host set another text
 */
export function makeTextWidget(node, name, inputData, { kind, height, heard }) {
  const element = document.createElement("div");
  element.className = "widget-expands"; // in Nodes 2.0 such a widget takes the room that is left
  element.style.cssText = `height: 100%; min-height: ${height - 20}px; display: grid`;
  let value = inputData?.[1]?.default ?? "";
  const widget = node.addDOMWidget(name, kind, element, {
    getValue: () => value,
    setValue: (text) => heard((value = typeof text === "string" ? text : "")),
    getMinHeight: () => height,
    hideOnZoom: false,
  });
  const change = (/** @type {string} */ text, /** @type {boolean} */ final) => {
    value = text;
    widget.callback?.(text);
    if (final) snapshot(app);
  };
  /** @param {() => void} stop */
  const onRemove = (stop) => {
    chain(widget, "onRemove", () => (stop(), leavePlace(element, node)));
    chain(node, "onAdded", () => setTimeout(takeLeftPlace, 60, element, node));
  };
  return { element, widget, value, change, onRemove };
}

app.registerExtension({
  name: "MixOfShow.Texts",
  async init() {
    const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    if (locale !== "en") Object.assign(texts, (await (await api.fetchApi("/i18n")).json())[locale]?.mixofshowEditor);
  },
});
