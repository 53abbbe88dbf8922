/** Which region a text of the server speaks of: "region 'mara'", "region 2" or "region 2 ('mara')". */

/** @typedef {import("./model.js").Region} Region */

// Names stand in Python's quotes: double ones where the name holds a single one, a backslash before what would end them.
const NAME = /\bregion (?:\d+ \()?(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")/i;
const NUMBER = /\bregion (\d+)\b/i;

/** @param {string} text @param {readonly Region[]} regions @returns {Region | null} */
export function regionIn(text, regions) {
  const named = NAME.exec(text);
  const name = (named?.[1] ?? named?.[2])?.replace(/\\(.)/g, "$1");
  const found = regions.find((region) => region.name === name || region.id === name);
  return found ?? regions[Number(NUMBER.exec(text)?.[1] ?? 0) - 1] ?? null;
}
