/**
 * Which concept names can be known before a run: those typed on nodes up the wires. Reads the graph, changes
 * nothing.
 */

/** @typedef {{names: string[], complete: boolean, sources: number}} Found */

/**
 * The little of ComfyUI's graph that is read here.
 * @typedef {{name: string, type?: unknown, link?: number | null}} Slot
 * @typedef {{origin_id: number | string, origin_slot: number}} Link
 * @typedef {{type?: string, comfyClass?: string, mode?: number, graph?: Graph | null, subgraph?: Graph,
 *   inputs?: Slot[],
 *   outputs?: {type?: unknown}[], widgets?: {name?: string, value?: unknown}[]}} Node
 * @typedef {{links: Map<number, Link> | Record<number, Link>, nodes?: Node[], rootGraph?: Graph,
 *   getNodeById: (id: number | string) => Node | null | undefined, outputs?: {linkIds?: number[]}[]}} Graph
 */

const SUBGRAPH_INPUT = -10;
const CARRIERS = new Set(["MIXOFSHOW_CONCEPTS", "MIXOFSHOW_DATASET"]);
const NAMED = new Set(["MixOfShowLoadConcept", "MixOfShowDataset"]);
const BYPASSED = 4;
const MUTED = 2;

/**
 * @param {Node} node @param {string} [input]
 * @returns {Found} not complete when some name is decided by a file; `sources` counts the nodes that bring a concept
 */
export function findConceptNames(node, input = "concepts") {
  /** @type {Found} */
  const found = { names: [], complete: true, sources: 0 };
  const slot = node.inputs?.find((entry) => entry.name === input);
  if (!slot || slot.link === null || slot.link === undefined) return { ...found, complete: false };
  follow(node.graph, slot.link, found, new Set());
  found.names = [...new Set(found.names)];
  if (!found.names.length) found.complete = false;
  return found;
}

/** @param {Graph} graph @param {number} id @returns {Link | undefined} */
const linkOf = (graph, id) => (graph.links instanceof Map ? graph.links.get(id) : graph.links[id]);

/**
 * @param {Graph | null | undefined} graph @param {number | null | undefined} linkId
 * @param {Found} found @param {Set<unknown>} seen
 */
function follow(graph, linkId, found, seen) {
  const link = graph && linkId !== null && linkId !== undefined ? linkOf(graph, linkId) : undefined;
  if (!graph || !link || seen.has(link)) return;
  seen.add(link);
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    for (const [outer, node] of placesOf(graph)) follow(outer, node.inputs?.[link.origin_slot]?.link, found, seen);
    return;
  }
  const origin = graph.getNodeById(link.origin_id);
  if (!origin || origin.mode === MUTED) return;
  if (origin.subgraph) {
    for (const inner of origin.subgraph.outputs?.[link.origin_slot]?.linkIds ?? [])
      follow(origin.subgraph, inner, found, seen);
    return;
  }
  if (NAMED.has(origin.comfyClass ?? origin.type ?? "") && origin.mode !== BYPASSED) {
    found.sources += 1;
    const name = origin.widgets?.find((widget) => widget.name === "name")?.value;
    if (typeof name === "string" && name.trim()) found.names.push(name.trim());
    else found.complete = false; // the file says the name
  }
  const passesAll = origin.type === "Reroute" || origin.mode === BYPASSED;
  for (const slot of origin.inputs ?? []) {
    if (passesAll || CARRIERS.has(String(slot.type))) follow(graph, slot.link, found, seen);
  }
}

/**
 * The nodes that show this subgraph, each with the graph it lies in.
 * @param {Graph} graph @returns {[Graph, Node][]}
 */
function placesOf(graph) {
  /** @type {[Graph, Node][]} */
  const places = [];
  const visited = new Set();
  const search = (/** @type {Graph | undefined} */ outer) => {
    if (!outer || visited.has(outer)) return;
    visited.add(outer);
    for (const node of outer.nodes ?? []) {
      if (node.subgraph === graph) places.push([outer, node]);
      search(node.subgraph);
    }
  };
  search(graph.rootGraph);
  return places;
}
