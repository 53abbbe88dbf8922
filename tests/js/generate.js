/** A seeded source of documents: sound ones, and ones that somebody or something has broken. */

/** @param {number} seed @returns {() => number} numbers from 0 to 1 (mulberry32) */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const HOSTILE_TEXTS = [
  "<img src=x onerror=alert(1)>",
  "</style><script>globalThis.hacked=1</script>",
  "{{constructor}}",
  "__proto__",
  "\u0000\u202e",
  "\ud800",
  "a".repeat(5000),
  "",
  " ",
  "mara",
  "MARA",
  "constructor",
  "\u00e9\u6f22\ud83d\ude00",
  "${1+1}",
  "left",
  "[x]-*-[y]",
];
const HOSTILE_NUMBERS = [
  0, -0, 1, -1, 0.5, 1e-9, 1e308, -1e308, 5e-324, 0.1, 2, 64, 1024, 4096, 1.5, -3.999, 4.5, 9, 1e21,
];

/** @param {() => number} next */
export function makeGenerator(next) {
  /** @template T @param {readonly T[]} list @returns {T} */
  const pick = (list) => list[Math.floor(next() * list.length)];
  const chance = (/** @type {number} */ part) => next() < part;

  /** @param {number} depth @returns {unknown} */
  const anything = (depth = 0) =>
    pick([
      () => pick(HOSTILE_TEXTS),
      () => pick(HOSTILE_NUMBERS),
      () => null,
      () => true,
      () => [],
      () =>
        depth > 3 ? {} : { [pick(HOSTILE_TEXTS).slice(0, 20)]: anything(depth + 1), type: pick(["rect", "mask", "x"]) },
      () => (depth > 3 ? [] : Array.from({ length: Math.floor(next() * 6) }, () => anything(depth + 1))),
    ])();

  const fraction = () => Math.round((next() * 1.4 - 0.2) * 1e4) / 1e4;
  const shape = () =>
    pick([
      () => ({ type: pick(["rect", "ellipse"]), x: fraction(), y: fraction(), width: fraction(), height: fraction() }),
      () => ({
        type: "polygon",
        points: Array.from({ length: Math.floor(next() * 7) }, () => [fraction(), fraction()]),
      }),
      () => {
        const [width, height] = [1 + Math.floor(next() * 6), 1 + Math.floor(next() * 6)];
        const on = Math.floor(next() * width * height);
        return { type: "mask", width, height, runs: [width * height - on, on] };
      },
      () => ({ type: "input", index: Math.floor(next() * 70) - 3 }),
    ])();

  const region = () => {
    /** @type {Record<string, unknown>} */
    const value = {
      id: pick(["a", "b", "left", "r1", "r2", "x y", ""]),
      name: pick(HOSTILE_TEXTS),
      shape: shape(),
      prompt: pick(HOSTILE_TEXTS),
      strength: next(),
      feather: next(),
      start: next(),
      end: next(),
      weight: next() * 2,
      enabled: chance(0.8),
      ui: { color: pick(["#ff0000", "red", "url(x)"]), pattern: "dots", locked: chance(0.5) },
    };
    while (chance(0.35))
      value[
        pick([
          "id",
          "name",
          "shape",
          "prompt",
          "concept",
          "strength",
          "start",
          "end",
          "weight",
          "ui",
          "feather",
          "control",
          "enabled",
        ])
      ] = anything();
    if (chance(0.2)) delete value[pick(Object.keys(value))];
    return value;
  };

  /** One document as text; about a third are not even JSON. @returns {string} */
  return () => {
    /** @type {Record<string, unknown>} */
    const doc = {
      version: 1,
      width: pick([512, 768, 64, 0, -5]),
      height: pick([512, 1e9, 640.5]),
      regions: Array.from({ length: Math.floor(next() * 5) }, region),
    };
    if (chance(0.3))
      doc[pick(["version", "width", "regions", "overlap", "edges", "suffix", "background", "__proto__", "extra"])] =
        anything();
    if (chance(0.01)) doc.regions = Array.from({ length: 1000 }, region);
    let text = JSON.stringify(chance(0.05) ? anything() : doc);
    if (chance(0.1)) text = text.slice(0, Math.floor(next() * text.length));
    if (chance(0.05)) text = text.replace(/\d+/, pick(["NaN", "Infinity", "1e999", "-0", "01"]));
    if (chance(0.01)) text = "[".repeat(50_000) + "]".repeat(50_000);
    if (chance(0.02)) text = pick(HOSTILE_TEXTS);
    return text;
  };
}
