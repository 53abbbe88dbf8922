/** Registers the region editor with ComfyUI: only the files beside this one know ComfyUI. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { watchErrors } from "./errors.js";
import { chain, snapshot } from "./regions/glue.js";
import { mount } from "./regions/mount.js";
import { findConceptNames } from "./regions/upstream.js";
import { book, watchNames } from "./sources.js";
import { makeTextWidget, texts } from "./widget.js";

const MIN = { width: 780, height: 500 };
const SIDES = ["width", "height"];
const picture = async (file) =>
  createImageBitmap(await (await api.fetchApi(`/view?${new URLSearchParams(file)}`)).blob());
const pictures = (files) => Promise.all((files ?? []).map(picture));

function makeRegionWidget(node, inputName, inputData) {
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
  const { element, widget, value, change, onRemove } = makeTextWidget(node, inputName, inputData, {
    kind: "MOS_REGIONS",
    height: MIN.height,
    heard: (text) => publish({ value: text, size: size() }),
  });
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
  onRemove(() => stops.forEach((stop) => stop()));
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
});
