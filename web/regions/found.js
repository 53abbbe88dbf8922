/** Regions of another document taken into one that is there: what was found, concept by concept. */

import { changeRegion, makeRegion, writeDoc } from "./model.js";
import { readDoc } from "./read.js";

/**
 * The document with every found region: its shape in place of that of a region with the same concept, else a new one.
 * @param {string} text the editor's @param {string} found of Found Places
 */
export function takeFound(text, found) {
  const { doc: theirs } = readDoc(found);
  let { doc } = readDoc(text, theirs);
  for (const { shape, name, concept } of theirs.regions) {
    const own = doc.regions.find((region) => region.concept.toLowerCase() === concept.toLowerCase());
    doc = own
      ? changeRegion(doc, own.id, { shape })
      : { ...doc, regions: [...doc.regions, makeRegion(doc, shape, { name, concept })] };
  }
  return writeDoc(doc);
}
