/**
 * Which concept names can be known before a run: those typed on nodes up the wires, and those in the files that are
 * chosen there. Reads the graph, changes nothing.
 */

/**
 * @typedef {{names: string[], complete: boolean, files: Record<string, string>}} Found  not complete when a name is
 *   known only after a run; `files` by name, where it is known
 */

/**
 * The little of ComfyUI's graph that is read here.
 * @typedef {{name: string, type?: unknown, link?: number | null, widget?: {name?: string}}} Slot
 * @typedef {{origin_id: number | string, origin_slot: number}} Link
 * @typedef {{type?: string, comfyClass?: string, mode?: number, graph?: Graph | null, subgraph?: Graph,
 *   inputs?: Slot[],
 *   outputs?: {type?: unknown}[], widgets?: {name?: string, value?: unknown}[]}} Node
 * @typedef {{links: Map<number, Link> | Record<number, Link>, nodes?: Node[], rootGraph?: Graph,
 *   getNodeById: (id: number | string) => Node | null | undefined, outputs?: {linkIds?: number[]}[]}} Graph
 * @typedef {{name?: unknown, file?: unknown}} Row
 * @typedef {(file: string) => string[] | null} NamesIn null where it is not known
 * @typedef {{namesIn: NamesIn, names: string[], complete: boolean, sources: number,
 *   files: Record<string, string>, carriers: ReadonlySet<string>}} Search
 */

const SUBGRAPH_INPUT = -10;
export const CARRIERS = new Set(["MIXOFSHOW_CONCEPTS", "MIXOFSHOW_DATASET"]);
/** Nodes that bring a concept, and what on them says its name. */
export const SOURCES = new Set(["MixOfShowLoadConcept", "MixOfShowCast", "MixOfShowDataset"]);
export const SAYING = Object.freeze(["name", "file", "cast"]);
const BYPASSED = 4;
const MUTED = 2;

/** @param {{link?: number | null} | undefined} slot */
const isWired = (slot) => slot?.link !== null && slot?.link !== undefined;

/**
 * @param {Node} node @param {NamesIn} namesIn @param {string} [input] @param {ReadonlySet<string>} [carriers] types of
 * wires that bring concepts along @returns {Found}
 */
export function findConceptNames(node, namesIn, input = "concepts", carriers = CARRIERS) {
  /** @type {Search} */
  const search = { namesIn, names: [], complete: true, sources: 0, files: {}, carriers };
  const slot = node.inputs?.find((entry) => entry.name === input);
  if (slot && isWired(slot)) follow(node.graph, slot.link, search, new Set());
  const { complete, sources, files } = search;
  return { names: [...new Set(search.names)], complete: complete && sources > 0, files };
}

/**
 * What this node calls its concepts: as typed, else as the file says. Notes the files.
 * @param {Node} node @param {Search} search @returns {string[] | null}
 */
function namesOn(node, { namesIn, files }) {
  const [name, file, cast] = SAYING.map((wanted) => {
    if (isWired(node.inputs?.find((slot) => slot.widget?.name === wanted))) return null;
    return node.widgets?.find((widget) => widget.name === wanted)?.value;
  });
  /** @type {Row[] | null} */
  const rows = cast === undefined ? [{ name, file }] : rowsOf(cast);
  const found = rows?.map((row) => {
    const file = typeof row?.file === "string" ? row.file : null;
    const typed = typeof row?.name === "string" && row.name.trim();
    const names = typed ? [typed] : file !== null && row.name !== null ? namesIn(file) : null;
    if (file) for (const found of names ?? []) files[found] = file;
    return names;
  });
  return found?.every((names) => names !== null) ? found.flatMap((names) => names ?? []) : null;
}

/**
 * The rows of a Cast (docs/cast.schema.json) that are on; null where its text is wired in or broken.
 * @param {unknown} cast @returns {Row[] | null}
 */
function rowsOf(cast) {
  try {
    return JSON.parse(String(cast)).rows.filter((/** @type {any} */ row) => row.on !== false);
  } catch {
    return null;
  }
}

/** @param {Graph} graph @param {number} id @returns {Link | undefined} */
const linkOf = (graph, id) => (graph.links instanceof Map ? graph.links.get(id) : graph.links[id]);

/**
 * @param {Graph | null | undefined} graph @param {number | null | undefined} linkId
 * @param {Search} search @param {Set<unknown>} seen
 */
function follow(graph, linkId, search, seen) {
  const link = graph && linkId !== null && linkId !== undefined ? linkOf(graph, linkId) : undefined;
  if (!graph || !link || seen.has(link)) return;
  seen.add(link);
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    for (const [outer, node] of placesOf(graph)) follow(outer, node.inputs?.[link.origin_slot]?.link, search, seen);
    return;
  }
  const origin = graph.getNodeById(link.origin_id);
  if (!origin || origin.mode === MUTED) return;
  if (origin.subgraph) {
    for (const inner of origin.subgraph.outputs?.[link.origin_slot]?.linkIds ?? [])
      follow(origin.subgraph, inner, search, seen);
    return;
  }
  if (SOURCES.has(origin.comfyClass ?? origin.type ?? "") && origin.mode !== BYPASSED) {
    const names = namesOn(origin, search);
    search.sources += 1;
    search.names.push(...(names ?? []));
    search.complete &&= names !== null;
  }
  const passesAll = origin.type === "Reroute" || origin.mode === BYPASSED;
  for (const slot of origin.inputs ?? []) {
    if (passesAll || search.carriers.has(String(slot.type))) follow(graph, slot.link, search, seen);
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

/**
 * Whether what `node` gives may have reached the node with this id ("5", or "3:7" inside a subgraph): true where the
 * wires leave this graph, because nothing here can tell.
 * @param {Node} node @param {string} id @param {number} [output] of `node`, if it must be this one
 */
export function leadsTo(node, id, output) {
  const { graph } = node;
  const key = id.split(":").at(-1) ?? "";
  const start = graph?.getNodeById(Number(key)) ?? graph?.getNodeById(key);
  if (!graph || !start) return true;
  const seen = new Set([start]);
  for (const place of seen) {
    if (place === node) return true;
    for (const slot of place.inputs ?? []) {
      const link = isWired(slot) ? linkOf(graph, Number(slot.link)) : undefined;
      if (link && Number(link.origin_id) === SUBGRAPH_INPUT) return true;
      const origin = link && graph.getNodeById(link.origin_id);
      if (origin && (origin !== node || output === undefined || link?.origin_slot === output)) seen.add(origin);
    }
  }
  return false;
}
