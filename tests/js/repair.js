/** Prints documents as the editor repairs them, each as a JSON string on its own line: node repair.js COUNT SEED */

import { writeDoc } from "../../web/regions/model.js";
import { readDoc } from "../../web/regions/read.js";
import { makeGenerator, random } from "./generate.js";

const [count, seed] = process.argv.slice(2).map(Number);
const next = makeGenerator(random(seed));
const lines = Array.from({ length: count }, () =>
  JSON.stringify(writeDoc(readDoc(next(), { width: 512, height: 512 }).doc)),
);
process.stdout.write(`${lines.join("\n")}\n`);
