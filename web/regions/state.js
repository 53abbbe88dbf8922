/** What the editor knows: the document with its history, the selection, the tool, the view. No DOM. */

import { regionIn } from "./blame.js";
import { History } from "./history.js";
import { byteLength, changeRegion, LIMITS, writeDoc } from "./model.js";
import { readDoc } from "./read.js";

/**
 * @typedef {import("./model.js").Doc} Doc
 * @typedef {import("./model.js").Region} Region
 * @typedef {import("./geometry.js").Size} Size
 * @typedef {"select" | "rect" | "ellipse" | "polygon" | "brush" | "eraser" | "hand"} Tool
 * @typedef {{doc: Doc, selected: string | null}} State
 * @typedef {{doc: Doc, guides: import("./geometry.js").Guide[]}} Draft
 */

export const BACKGROUND = "background";
export const TOOLS = /** @type {const} */ (["select", "rect", "ellipse", "polygon", "brush", "eraser", "hand"]);
export const SNAPS = Object.freeze([0, 8, 64]);

export class Editor {
  /**
   * @param {string} value @param {Size} size
   * @param {{changed: (value: string, final: boolean) => void}} output `final` ends a gesture: take a snapshot
   */
  constructor(value, size, output) {
    this.output = output;
    /** @type {Size} */
    this.size = size;
    /** @type {Tool} */
    this.tool = "select";
    this.chosen = false; // whether somebody chose the tool
    this.brush = 0.05;
    this.snap = 8;
    this.view = { zoom: 1, x: 0, y: 0 };
    /** @type {Draft | null} */
    this.draft = null;
    /** @type {import("./geometry.js").Point[] | null} corners of the polygon being drawn */
    this.corners = null;
    /** @type {import("./geometry.js").Point | null} */
    this.pointer = null;
    /** @type {import("./geometry.js").Point | null} where the keyboard draws */
    this.cross = null;
    /** @type {import("./tools.js").Gesture | null} what it is drawing */
    this.held = null;
    /** @type {string | null} */
    this.mergeKey = null;
    /** @type {import("./model.js").Note | null} */
    this.message = null;
    /** @type {{id: string, text: string} | null} a region that an error of the last run names */
    this.blamed = null;
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    /** @type {import("./model.js").Note[]} */
    this.notes = [];
    /** @type {History<State>} */
    this.history = new History({ doc: readDoc("", size).doc, selected: null });
    this.value = "";
    /** @type {Size | null} the size that the text was drawn for */
    this.written = null;
    this.load(value);
  }

  /**
   * Takes a value from outside (workflow, graph undo). It stays as it is until the first edit.
   * @param {string} value
   */
  load(value) {
    const read = readDoc(value, this.size);
    this.value = value;
    this.notes = read.notes;
    this.written = read.sized && read.doc.regions.length ? { width: read.doc.width, height: read.doc.height } : null;
    const doc = { ...read.doc, ...this.size };
    const selected = doc.regions.some((region) => region.id === this.selected) ? this.selected : null;
    this.history = new History({ doc, selected });
    this.held = this.blamed = null;
    this.offerTool(doc);
    this.cancel();
  }

  /** Until somebody chooses: on an empty canvas dragging draws a box. @param {Doc} doc */
  offerTool({ regions }) {
    if (!this.chosen) this.tool = regions.length ? "select" : "rect";
  }

  /** Set when the text was drawn for other proportions. @returns {import("./model.js").Note | null} */
  get stretched() {
    const { written, size } = this;
    if (!written || Math.abs((written.width * size.height) / (written.height * size.width) - 1) <= 0.01) return null;
    return ["note.otherSize", written];
  }

  /** @param {Size} size */
  resize(size) {
    if (size.width === this.size.width && size.height === this.size.height) return;
    this.size = size;
    this.history.present = { ...this.history.present, doc: { ...this.history.present.doc, ...size } };
    this.cancel();
  }

  /** The document as shown: with the running gesture, if there is one. @returns {Doc} */
  get doc() {
    return this.draft?.doc ?? this.history.present.doc;
  }

  get selected() {
    return this.history?.present.selected ?? null;
  }

  /** @returns {Region | null} */
  get region() {
    return this.doc.regions.find((region) => region.id === this.selected) ?? null;
  }

  /** Selecting is no edit: it makes no undo step. @param {string | null} id */
  select(id) {
    if (id === this.selected) return;
    this.mergeKey = null;
    this.history.present = { ...this.history.present, selected: id };
    this.notify();
  }

  /** @param {Tool} tool */
  use(tool) {
    this.cross = this.held = null;
    this.cancel();
    this.chosen = true;
    this.tool = tool;
    this.notify();
  }

  /** Shows a document without keeping it. @param {Doc} doc @param {import("./geometry.js").Guide[]} [guides] */
  preview(doc, guides = []) {
    this.draft = { doc, guides };
    this.notify();
  }

  /** Drops the running gesture. */
  cancel() {
    this.draft = null;
    this.corners = null;
    this.mergeKey = null;
    this.notify();
  }

  /**
   * Keeps a document as one undo step. With a `merge` key, steps of the same key become one (typing); such a step is
   * not final until `settle`. Refused when the text would be larger than the server accepts.
   * @param {Doc} doc @param {{selected?: string | null, merge?: string}} [options] @returns {boolean}
   */
  commit(doc, options = {}) {
    this.draft = null;
    const { selected = this.selected, merge = null } = options;
    const now = this.history.present;
    const value = writeDoc(doc);
    if (byteLength(value) > LIMITS.bytes) {
      this.say("say.tooBig", { limit: Math.round(LIMITS.bytes / 1024) });
      return false;
    }
    if (value === writeDoc(now.doc)) {
      this.history.present = { ...now, selected };
      this.notify();
      return false;
    }
    this.history.push({ doc, selected }, merge !== null && merge === this.mergeKey);
    this.mergeKey = merge;
    this.offerTool(doc);
    this.publish(value, merge === null);
    return true;
  }

  /** Ends a run of merged steps. */
  settle() {
    if (this.mergeKey === null) return;
    this.mergeKey = null;
    this.output.changed(this.value, true);
  }

  undo() {
    this.settle();
    return this.travel(this.history.undo(), "say.nothingToUndo");
  }

  redo() {
    return this.travel(this.history.redo(), "say.nothingToRedo");
  }

  /** @param {State | null} state @param {string} otherwise */
  travel(state, otherwise) {
    this.draft = this.held = null;
    this.corners = null;
    if (!state) return this.say(otherwise);
    this.history.present = { ...state, doc: { ...state.doc, ...this.size } };
    this.publish(writeDoc(this.history.present.doc), true);
  }

  /** Shows the region that an error names, until the next edit or a run without one. @param {string} text */
  blame(text) {
    const region = regionIn(text, this.doc.regions);
    this.blamed = region && { id: region.id, text };
    if (region) this.select(region.id);
    this.notify();
  }

  /** @param {string} value @param {boolean} final */
  publish(value, final) {
    this.value = value;
    this.blamed = null;
    this.notes = [];
    this.written = null;
    this.message = null;
    this.output.changed(value, final);
    this.notify();
  }

  /** @param {string} id @param {Partial<Region>} change @param {string} [merge] */
  edit(id, change, merge) {
    return this.commit(changeRegion(this.doc, id, change), merge ? { merge } : {});
  }

  /** One line for eyes and screen readers. @param {string} key @param {Record<string, string | number>} [values] */
  say(key, values) {
    this.message = [key, values ?? {}];
    this.notify();
  }

  notify() {
    for (const listener of this.listeners ?? []) listener();
  }
}
