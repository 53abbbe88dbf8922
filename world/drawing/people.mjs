// Renders avataaars people from a JSON-lines list of specs: {"file": "0001.png", "options": {...}}.
// Usage: node people.mjs SPECS.jsonl OUT_FOLDER NODE_MODULES [PIXELS]
import { createRequire } from "node:module";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [specs, out, modules, pixels = "128"] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const load = async (name) => import(pathToFileURL(join(modules, name)));
const { createAvatar } = await load("@dicebear/core/lib/index.js");
const avataaars = await load("@dicebear/avataaars/lib/index.js");
const { Resvg } = require("@resvg/resvg-js");

mkdirSync(out, { recursive: true });
for (const line of readFileSync(specs, "utf8").split("\n")) {
  if (!line.trim()) continue;
  const { file, options } = JSON.parse(line);
  // Without an explicit size the view box is cut by some renderers.
  const svg = createAvatar(avataaars, { seed: file, size: 280, ...options }).toString();
  const picture = new Resvg(svg, { fitTo: { mode: "width", value: Number(pixels) } }).render();
  writeFileSync(join(out, file), picture.asPng());
}
