/** Registers the region editor with ComfyUI: the only file of ours that knows ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { mount } from "./regions/mount.js";
import { findConceptNames } from "./regions/upstream.js";

const MIN = { width: 780, height: 500 };
const texts = {};

/** Adds to a handler of this one object; what was there runs first. */
function chain(object, name, added) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    added(...args);
    return result;
  };
}

/** The graph's undo step; a gesture that ends with a mouseup has taken the same one already. */
function snapshot() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

const picture = async (file) => createImageBitmap(await (await api.fetchApi(`/view?${new URLSearchParams(file)}`)).blob());
const pictures = (files) => Promise.all((files ?? []).map(picture));

function makeRegionWidget(node, inputName, inputData) {
  const element = Object.assign(document.createElement("div"), { className: "widget-expands" }); // Nodes 2.0: fill the node
  element.style.cssText = "height: 100%; display: grid";
  const listeners = new Set();
  const publish = (news) => listeners.forEach((listener) => listener(news));
  const side = (name) => node.widgets?.find((widget) => widget.name === name);
  const sizeIsFixed = () => node.inputs?.some((input) => ["width", "height"].includes(input.widget?.name) && input.link != null) ?? false;
  let lastRun = { concepts: [], sources: -1 };
  const size = () => (sizeIsFixed() && lastRun.size) || { width: Number(side("width")?.value) || 512, height: Number(side("height")?.value) || 512 };
  const publishSize = () => publish({ size: size() });
  let value = inputData?.[1]?.default ?? "";
  const setValue = (text) => publish({ value: (value = typeof text === "string" ? text : ""), size: size() });
  const widget = node.addDOMWidget(inputName, "MOS_REGIONS", element, { getValue: () => value, setValue, getMinHeight: () => MIN.height, hideOnZoom: false });
  const change = (text, final) => {
    value = text;
    widget.callback?.(text);
    if (final) snapshot();
  };
  const resize = (width, height) => {
    for (const [name, amount] of Object.entries({ width, height })) {
      side(name).value = amount;
      side(name).callback?.(amount);
    }
    snapshot();
  };
  const concepts = () => {
    const typed = findConceptNames(node);
    const fresh = typed.sources > 0 && typed.sources === lastRun.sources; // the last run's list still holds
    return { names: [...new Set([...typed.names, ...lastRun.concepts])], complete: typed.complete || fresh };
  };
  const subscribe = (listener) => listeners.add(listener) && (() => listeners.delete(listener));
  const cleanup = mount(element, { value, texts, size: size(), sizeIsFixed, change, resize, concepts, subscribe });
  chain(widget, "onRemove", cleanup);
  for (const event of ["onConfigure", "onConnectionsChange"]) chain(node, event, publishSize);
  chain(node, "onExecuted", async (output) => {
    if (!output?.mixofshow_run) return;
    lastRun = { ...output.mixofshow_run[0], sources: findConceptNames(node).sources };
    const [[backdrop = null], masks] = await Promise.all([pictures(output.mixofshow_backdrop), pictures(output.mixofshow_masks)]);
    publish({ size: size(), backdrop, masks });
  });
  queueMicrotask(() => { // width and height are made after this widget
    for (const name of ["width", "height"]) if (side(name)) chain(side(name), "callback", publishSize);
    publishSize();
  });
  return { widget, minWidth: MIN.width, minHeight: MIN.height };
}

app.registerExtension({
  name: "MixOfShow.Regions",
  getCustomWidgets: () => ({ MOS_REGIONS: makeRegionWidget }),
  async init() {
    const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    if (locale !== "en") Object.assign(texts, (await (await api.fetchApi("/i18n")).json())[locale]?.mixofshowEditor);
  },
});
