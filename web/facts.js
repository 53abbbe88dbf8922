/** What the server knows of concept files: asked once for each, and again after `forgetFacts`. */

import { api } from "../../scripts/api.js";

/** @typedef {import("./cast/view.js").Facts} Facts */

/** @type {Map<string, Facts | null>} */
const known = new Map();
/** @type {Set<string>} */
const asked = new Set();
/** @type {Set<() => void>} */
const listeners = new Set();
let frame = 0;

/** Answers come one by one, for two hundred files of a list: all listeners look once a frame. */
export function tellFacts() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    listeners.forEach((listener) => listener());
  });
}

/** @param {() => void} look @returns {() => void} stops */
export function watchFacts(look) {
  listeners.add(look);
  return () => listeners.delete(look);
}

/** @param {string} file @returns {Facts | null} null while they are asked for */
export function factsOf(file) {
  if (!asked.has(file)) {
    asked.add(file);
    const query = new URLSearchParams({ file });
    api
      .fetchApi(`/mixofshow/facts?${query}`)
      .then((/** @type {Response} */ answer) => answer.json())
      .then((/** @type {any} */ facts) => {
        const picture = facts.picture ? api.apiURL(`/mixofshow/picture?${query}`) : "";
        known.set(file, { ...facts, picture });
        tellFacts();
      })
      .catch(() => asked.delete(file));
  }
  return known.get(file) ?? null;
}

/** What was learnt stays until the answer is there: no picture flickers. */
export function forgetFacts() {
  asked.clear();
  tellFacts();
}
