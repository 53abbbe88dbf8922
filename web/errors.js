/** Our errors as people should read them: their own text in a toast, and the region that they name shown in its editor. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain } from "./regions/glue.js";
import { leadsTo } from "./regions/upstream.js";

const OURS = /^mixofshow\.\w+$/;
const SECONDS = 30;
const ANSWER = { each: 100, longest: 20_000 }; // how often and how long the host's answer to a queued graph is waited for
const listeners = new Set();

/** @param {any} node a node with an editor @param {(news: {blame: string}) => void} publish @returns {() => void} stops */
export function watchErrors(node, publish) {
  const hear = (/** @type {string} */ id, /** @type {string} */ text) => {
    if (leadsTo(node, id)) publish({ blame: text });
  };
  listeners.add(hear);
  return () => listeners.delete(hear);
}

/** @param {any} detail of the host's event */
function show({ node_id: id, node_type: type, exception_type: kind, exception_message: message }) {
  if (!OURS.test(kind ?? "") && !type?.startsWith("MixOfShow")) return;
  const text = String(message ?? "").trim();
  const title = globalThis.LiteGraph?.registered_node_types?.[type]?.title ?? type;
  app.extensionManager?.toast?.add({ severity: "error", summary: title, detail: text, life: SECONDS * 1000 });
  for (const hear of listeners) hear(String(id), text);
}

let waiting = 0;
let until = 0;

/** What the host refuses before a run comes as no event: the front end keeps it beside its own dialog. */
function waitForRefusal() {
  clearInterval(waiting);
  until = Date.now() + ANSWER.longest;
  waiting = setInterval(() => {
    const refused = app.lastNodeErrors;
    if (!refused && Date.now() < until) return;
    clearInterval(waiting);
    for (const [id, { class_type: type, errors }] of Object.entries(refused ?? {}))
      for (const { message, details } of errors ?? [])
        show({ node_id: id, node_type: type, exception_message: details || message });
  }, ANSWER.each);
}

app.registerExtension({
  name: "MixOfShow.Errors",
  /** @param {any} node */
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("MixOfShow") && node.widgets?.length)
      chain(node.widgets[0], "beforeQueued", waitForRefusal);
  },
  setup() {
    api.addEventListener("execution_error", ({ detail }) => show(detail));
    api.addEventListener("promptQueued", () => (until = 0));
    api.addEventListener("execution_success", () => listeners.forEach((hear) => hear("", "")));
  },
});
