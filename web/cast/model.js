/** A cast's rows: read leniently from the stored text, changed by pure functions, written without defaults. */

/**
 * @typedef {"auto" | "concept" | "style" | "add-on"} Role
 * @typedef {{file: string, on: boolean, name: string, trigger: string, strength: number, text_strength: number | null,
 *   role: Role}} Row
 */

export const VERSION = 1;
export const MAX_ROWS = 64;
export const MAX_STRENGTH = 10;
/** @type {readonly Role[]} */
export const ROLES = Object.freeze(["auto", "concept", "style", "add-on"]);

/** @param {Partial<Row>} [given] @returns {Row} */
export const makeRow = (given = {}) => ({
  file: "",
  on: true,
  name: "",
  trigger: "",
  strength: 1,
  text_strength: null,
  role: "auto",
  ...given,
});

/**
 * What the stored text holds; what cannot be used is left out and counted.
 * @param {string} text @returns {{rows: Row[], dropped: number, broken: boolean}}
 */
export function readCast(text) {
  if (!text.trim()) return { rows: [], dropped: 0, broken: false };
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    return { rows: [], dropped: 0, broken: true };
  }
  if (found?.version !== VERSION || !Array.isArray(found.rows ?? [])) return { rows: [], dropped: 0, broken: true };
  const all = found.rows ?? [];
  const rows = all.slice(0, MAX_ROWS).map(readRow).filter(Boolean);
  return { rows, dropped: all.length - rows.length, broken: false };
}

/** @param {any} entry @returns {Row | null} */
function readRow(entry) {
  if (!entry || typeof entry !== "object" || Array.isArray(entry)) return null;
  const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value.slice(0, 1000) : "");
  const row = makeRow({ file: text(entry.file), name: text(entry.name), trigger: text(entry.trigger) });
  row.on = entry.on !== false;
  row.strength = clampStrength(entry.strength, 1);
  row.text_strength = entry.text_strength === undefined ? null : clampStrength(entry.text_strength, null);
  row.role = ROLES.includes(entry.role) ? entry.role : "auto";
  return row;
}

/**
 * @template T
 * @param {unknown} value @param {T} otherwise @returns {number | T}
 */
export function clampStrength(value, otherwise) {
  if (typeof value !== "number" || !Number.isFinite(value)) return otherwise;
  return Math.min(MAX_STRENGTH, Math.max(-MAX_STRENGTH, value));
}

/** @param {Row[]} rows */
export function writeCast(rows) {
  const plain = /** @type {Record<string, unknown>} */ (makeRow());
  const kept = rows.map((row) =>
    Object.fromEntries(Object.entries(row).filter(([key, value]) => value !== plain[key])),
  );
  return JSON.stringify({ version: VERSION, rows: kept });
}

/** @param {Row[]} rows @param {number} index @param {Partial<Row>} change @returns {Row[]} */
export const setRow = (rows, index, change) => rows.map((row, n) => (n === index ? { ...row, ...change } : row));

/** @param {Row[]} rows @param {number} index @returns {Row[]} */
export const removeRow = (rows, index) => rows.filter((_, n) => n !== index);

/** A copy right below; it has the same file, so it is off until another is chosen. @param {Row[]} rows @param {number} index */
export function duplicateRow(rows, index) {
  if (rows.length >= MAX_ROWS) return rows;
  return [...rows.slice(0, index + 1), { ...rows[index], on: false }, ...rows.slice(index + 1)];
}

/** @param {Row[]} rows @param {number} from @param {number} to place after the move @returns {Row[]} */
export function moveRow(rows, from, to) {
  if (from === to || to < 0 || to >= rows.length) return rows;
  const left = removeRow(rows, from);
  return [...left.slice(0, to), rows[from], ...left.slice(to)];
}

/** Files whose path holds all typed words, folders included, best first. @param {string[]} files @param {string} typed */
export function searchFiles(files, typed) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const found = files.filter((file) => words.every((word) => file.toLowerCase().includes(word)));
  const begins = (/** @type {string} */ file) =>
    words.length > 0 && (file.split("/").pop() ?? "").toLowerCase().startsWith(words[0]);
  return [...found.filter(begins), ...found.filter((file) => !begins(file))];
}
