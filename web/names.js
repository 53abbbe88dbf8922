/** Which concept names a file brings: asked once per file, and again after a run, which may have written it anew. */

/** @typedef {(file: string) => Promise<unknown>} Ask the server's answer: a list of names, or null where only a run can tell */

export class NameBook {
  /** @param {Ask} ask */
  constructor(ask) {
    this.ask = ask;
    /** @type {Map<string, string[] | null>} */
    this.known = new Map();
    /** @type {Set<string>} */
    this.asked = new Set();
    /** @type {Set<() => void>} */
    this.listeners = new Set();
  }

  /** @param {string} file @returns {string[] | null} null: not known, or not yet: the listeners hear when it is */
  namesIn(file) {
    if (!this.asked.has(file)) {
      this.asked.add(file);
      this.look(file);
    }
    return this.known.get(file) ?? null;
  }

  /** @param {string} file */
  async look(file) {
    const names = await this.ask(file).catch(() => null);
    this.known.set(file, Array.isArray(names) ? names.map(String) : null);
    this.tell();
  }

  /** What was learnt stays until the answer is there: no mark flickers. */
  forget() {
    this.asked.clear();
    this.tell();
  }

  tell() {
    for (const listener of this.listeners) listener();
  }
}
