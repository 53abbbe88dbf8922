/** What older releases saved otherwise: mended in a workflow's data before the front end reads it. */

const CONTROLS = ["fixed", "increment", "decrement", "randomize"];

// Where the control value of `seed` stood, while the front end still added one to these nodes. A file that we shipped
// never had it, and has a number there.
const SEED_CONTROLS = { MixOfShowFusionSettings: 18, MixOfShowCompare: 5 };

/**
 * Takes the control value out, so that the values behind it meet their widgets again. Changes `workflow`.
 * @param {any} workflow
 */
export function dropSeedControls(workflow) {
  const graphs = [workflow, ...(workflow?.definitions?.subgraphs ?? [])];
  for (const { type, widgets_values: values } of graphs.flatMap((graph) => graph?.nodes ?? [])) {
    const place = SEED_CONTROLS[/** @type {keyof typeof SEED_CONTROLS} */ (type)];
    if (place && Array.isArray(values) && CONTROLS.includes(values[place])) values.splice(place, 1);
  }
}
