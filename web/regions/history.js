/** Undo and redo over whole values, which are small immutable texts or objects. */

const DEPTH = 200;

/** @template T */
export class History {
  /** @param {T} first */
  constructor(first) {
    /** @type {T[]} */
    this.past = [];
    /** @type {T[]} */
    this.future = [];
    this.present = first;
  }

  /**
   * A new state; an equal one is ignored. `merge` replaces the newest instead (typing in one field).
   * @param {T} state @param {boolean} [merge]
   */
  push(state, merge = false) {
    if (Object.is(state, this.present)) return;
    if (!merge) this.past.push(this.present);
    if (this.past.length > DEPTH) this.past.shift();
    this.present = state;
    this.future = [];
  }

  /** @returns {T | null} the state to show, or null when there is none */
  undo() {
    const state = this.past.pop();
    if (state === undefined) return null;
    this.future.push(this.present);
    this.present = state;
    return state;
  }

  /** @returns {T | null} */
  redo() {
    const state = this.future.pop();
    if (state === undefined) return null;
    this.past.push(this.present);
    this.present = state;
    return state;
  }

  get canUndo() {
    return this.past.length > 0;
  }

  get canRedo() {
    return this.future.length > 0;
  }
}
