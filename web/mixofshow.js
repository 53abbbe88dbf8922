/** Registers the region editor with ComfyUI: only the files beside this one know ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { watchErrors } from "./errors.js";
import { chain, leavePlace, snapshot, takeLeftPlace } from "./regions/glue.js";
import { mount } from "./regions/mount.js";
import { findConceptNames } from "./regions/upstream.js";
import { book, watchNames } from "./sources.js";

const MIN = { width: 780, height: 500 };
const SIDES = ["width", "height"];
const texts = {};
const picture = async (file) =>
  createImageBitmap(await (await api.fetchApi(`/view?${new URLSearchParams(file)}`)).blob());
const pictures = (files) => Promise.all((files ?? []).map(picture));

function makeRegionWidget(node, inputName, inputData) {
  const element = document.createElement("div");
  element.className = "widget-expands"; // in Nodes 2.0 such a widget takes the room that is left
  element.style.cssText = `height: 100%; min-height: ${MIN.height - 20}px; display: grid`;
  const listeners = new Set();
  const publish = (news) => listeners.forEach((listener) => listener(news));
  const side = (name) => node.widgets?.find((widget) => widget.name === name);
  const isWired = (input) => SIDES.includes(input.widget?.name) && input.link !== null && input.link !== undefined;
  const sizeIsFixed = () => node.inputs?.some(isWired) ?? false;
  const typed = (name) => Number(side(name)?.value) || 512;
  const typedSize = () => ({ width: typed("width"), height: typed("height") });
  const size = () => (sizeIsFixed() && lastRun.size) || typedSize();
  const publishSize = () => publish({ size: size() });
  let lastRun = { concepts: [] };
  let value = inputData?.[1]?.default ?? "";
  const widget = node.addDOMWidget(inputName, "MOS_REGIONS", element, {
    getValue: () => value,
    setValue: (text) => publish({ value: (value = typeof text === "string" ? text : ""), size: size() }),
    getMinHeight: () => MIN.height,
    hideOnZoom: false,
  });
  const change = (text, final) => {
    value = text;
    widget.callback?.(text);
    if (final) snapshot(app);
  };
  const resize = (...amounts) => {
    SIDES.forEach((name, n) => (side(name).value = amounts[n]));
    SIDES.forEach((name, n) => side(name).callback?.(amounts[n]));
    snapshot(app);
  };
  const concepts = () => {
    const { names, complete } = findConceptNames(node, (file) => book.namesIn(file));
    return { names: complete ? names : [...new Set([...names, ...lastRun.concepts])], complete };
  };
  const subscribe = (listener) => listeners.add(listener) && (() => listeners.delete(listener));
  const cleanup = mount(element, { value, texts, size: size(), sizeIsFixed, change, resize, concepts, subscribe });
  const stops = [cleanup, watchNames(publishSize), watchErrors(node, publish)];
  chain(widget, "onRemove", () => (stops.forEach((stop) => stop()), leavePlace(element, node)));
  chain(node, "onAdded", () => setTimeout(takeLeftPlace, 60, element, node));
  for (const event of ["onConfigure", "onConnectionsChange"]) chain(node, event, publishSize);
  chain(node, "onExecuted", async (output) => {
    const run = output?.mixofshow_run?.[0];
    if (!run) return;
    lastRun = run;
    const [[backdrop = null], masks] = await Promise.all(
      [output.mixofshow_backdrop, output.mixofshow_masks].map(pictures),
    );
    publish({ size: size(), backdrop, masks });
  });
  const watchSides = () => SIDES.filter(side).forEach((name) => chain(side(name), "callback", publishSize));
  Promise.resolve().then(watchSides).then(publishSize); // width and height are made after this widget
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
