/** What can lie under the regions: the picture up the wire, the last result, and its preview while it is painted. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { leadsTo } from "./regions/upstream.js";

const CHOICE = "mixofshow_backdrop"; // kept with the node, outside the text that a run depends on
const REGIONS = 0; // the output that the result must come from

/** @param {Record<string, string>} file as the host names it */
const urlOf = (file) => `/view?${new URLSearchParams(file)}`;

/** @param {string} url */
const load = async (url) => createImageBitmap(await (await api.fetchApi(url)).blob());

/** @param {Record<string, string>[] | undefined} files */
export const loadPictures = (files) => Promise.all((files ?? []).map((file) => load(urlOf(file))));

/**
 * The picture that the node on this input shows already: the file it loads, or what its last run made.
 * @param {any} node @param {string} input @returns {string | null} its address
 */
function shownUpstream(node, input) {
  const link = node.graph?.getLink?.(node.inputs?.find((/** @type {any} */ slot) => slot.name === input)?.link);
  const origin = link && node.graph.getNodeById(link.origin_id);
  if (!origin) return null;
  if (origin.type === "Reroute") return shownUpstream(origin, origin.inputs[0].name);
  const chosen = origin.widgets?.find((/** @type {any} */ widget) => widget.name === "image")?.value;
  if (typeof chosen === "string" && chosen) {
    const [, path, type] = /^(.*?)(?: \[(input|output|temp)\])?$/.exec(chosen) ?? [];
    const cut = path.lastIndexOf("/");
    return urlOf({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(0, cut)), type: type ?? "input" });
  }
  const made = app.nodeOutputs?.[origin.id]?.images?.[0];
  return made ? urlOf(made) : null;
}

/** @param {any} node @returns {import("./regions/strip.js").Backdrop} */
export const chosenBackdrop = (node) => node.properties?.[CHOICE] ?? "wired";

/**
 * @param {any} node with an editor @param {HTMLElement} element @param {(news: any) => void} publish
 * @returns {{look: () => void, choose: (kind: string) => void, stop: () => void}}
 */
export function watchPictures(node, element, publish) {
  let wired = "";
  const show = async (/** @type {string} */ kind, /** @type {Promise<ImageBitmap>} */ picture) =>
    publish({ pictures: { [kind]: await picture.catch(() => null) } });
  const look = () => {
    const url = shownUpstream(node, "backdrop");
    if (url && url !== wired) show("wired", load(url));
    wired = url ?? "";
  };
  const isResult = (/** @type {string} */ id) => {
    const maker = node.graph?.getNodeById(Number(id.split(":").at(-1)));
    return !maker?.comfyClass?.startsWith("MixOfShow") && leadsTo(node, id, REGIONS);
  };
  const listeners = {
    executed(/** @type {any} */ { detail }) {
      const [picture] = detail.output?.images ?? [];
      if (picture && isResult(String(detail.display_node ?? detail.node))) show("result", load(urlOf(picture)));
    },
    b_preview_with_metadata(/** @type {any} */ { detail }) {
      if (isResult(String(detail.displayNodeId))) show("result", createImageBitmap(detail.blob));
    },
  };
  for (const [name, listener] of Object.entries(listeners)) api.addEventListener(name, listener);
  element.addEventListener("pointerenter", look); // the file up the wire may be another
  return {
    look,
    choose(kind) {
      (node.properties ??= {})[CHOICE] = kind;
      const [id, made] = Object.entries(app.nodeOutputs ?? {}).findLast(
        ([id, { images }]) => images?.length && isResult(id),
      ) ?? [""];
      if (kind === "result" && id) show("result", load(urlOf(made.images[0])));
    },
    stop() {
      for (const [name, listener] of Object.entries(listeners)) api.removeEventListener(name, listener);
    },
  };
}
