import assert from "node:assert/strict";
import { test } from "node:test";
import { dropSeedControls } from "../../web/saved.js";

/** @param {unknown[]} values */
const compare = (...values) => ({
  type: "MixOfShowCompare",
  widgets_values: ["p", "n", "w", "standard", 7, ...values],
});

test("the control value goes, inside subgraphs too, and nothing else does", () => {
  const workflow = {
    nodes: [compare("randomize", 20, 3), compare(20, 3), { type: "KSampler", widgets_values: [1, "fixed", 2] }],
    definitions: { subgraphs: [{ nodes: [compare("fixed", 20, 3)] }] },
  };
  dropSeedControls(workflow);
  dropSeedControls(workflow);
  assert.deepEqual(workflow.nodes.slice(0, 2), [compare(20, 3), compare(20, 3)]);
  assert.deepEqual(workflow.nodes[2].widgets_values, [1, "fixed", 2]);
  assert.deepEqual(workflow.definitions.subgraphs[0].nodes, [compare(20, 3)]);
});

test("what is no workflow passes", () => {
  for (const odd of [undefined, null, {}, { nodes: [{ type: "MixOfShowCompare", widgets_values: { seed: 1 } }] }])
    assert.doesNotThrow(() => dropSeedControls(odd));
});
