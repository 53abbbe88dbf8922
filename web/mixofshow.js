/** Registers the region editor with ComfyUI: only the files beside this one know ComfyUI. */

import { app } from "../../scripts/app.js";
import { watchErrors } from "./errors.js";
import { factsOf, watchFacts } from "./facts.js";
import { chosenBackdrop, loadPictures, watchPictures } from "./pictures.js";
import { popOut } from "./popout.js";
import { chain, snapshot } from "./regions/glue.js";
import { mount } from "./regions/mount.js";
import { findConceptNames } from "./regions/upstream.js";
import { book, watchNames } from "./sources.js";
import { makeTextWidget, texts } from "./widget.js";

const MIN = { width: 780, height: 500 };
const SIDES = ["width", "height"];

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
    const { names, complete, files } = findConceptNames(node, (file) => book.namesIn(file));
    const pictures = Object.fromEntries(Object.entries(files).map(([name, file]) => [name, factsOf(file)?.picture]));
    return { names: complete ? names : [...new Set([...names, ...lastRun.concepts])], complete, pictures };
  };
  const subscribe = (listener) => listeners.add(listener) && (() => listeners.delete(listener));
  const under = watchPictures(node, element, publish);
  const host = { value, texts, size: size(), sizeIsFixed, change, resize, concepts, subscribe, popOut };
  const cleanup = mount(element, { ...host, backdrop: () => chosenBackdrop(node), chooseBackdrop: under.choose });
  const stops = [cleanup, watchNames(publishSize), watchFacts(publishSize), watchErrors(node, publish), under.stop];
  onRemove(() => stops.forEach((stop) => stop()));
  for (const event of ["onConfigure", "onConnectionsChange"]) chain(node, event, () => (publishSize(), under.look()));
  chain(node, "onExecuted", async (output) => {
    const run = output?.mixofshow_run?.[0];
    if (!run) return;
    lastRun = run;
    const [[wired = null], masks] = await Promise.all(
      [output.mixofshow_backdrop, output.mixofshow_masks].map(loadPictures),
    );
    publish({ size: size(), pictures: { wired }, masks });
  });
  const watchSides = () => SIDES.filter(side).forEach((name) => chain(side(name), "callback", publishSize));
  Promise.resolve().then(watchSides).then(publishSize); // width and height are made after this widget
  return { widget, minWidth: MIN.width, minHeight: MIN.height };
}

app.registerExtension({
  name: "MixOfShow.Regions",
  getCustomWidgets: () => ({ MOS_REGIONS: makeRegionWidget }),
});
