/** Gestures: what a press, a drag and a release mean with each tool. They see fractions, never events or the DOM. */

import { decodeRuns, encodeRuns, gridSize, isEmpty, stroke } from "./bitmask.js";
import {
  boundsOf,
  boxBetween,
  dragHandle,
  fitInto,
  handlesOf,
  keepInside,
  regionsAt,
  sampleShape,
  snapBox,
  snapLines,
  snapPoint,
} from "./geometry.js";
import { changeRegion, clamp, LIMITS, makeRegion, round6 } from "./model.js";

/**
 * @typedef {import("./state.js").Editor} Editor
 * @typedef {import("./model.js").Shape} Shape
 * @typedef {import("./model.js").Region} Region
 * @typedef {{x: number, y: number, reach: {x: number, y: number}, pull: {x: number, y: number}, shift: boolean,
 *   alt: boolean, free: boolean,
 *   pressure: number}} Press  a point in fractions; `reach` is how near is near enough to
 *   hit, `pull` to snap; `free` switches snapping off
 * @typedef {{move: (at: Press) => void, end: (at: Press) => void}} Gesture
 */

/** @param {Editor} editor @param {Press} at @returns {Gesture | null} */
export function begin(editor, at) {
  if (editor.tool === "rect" || editor.tool === "ellipse") return drawBox(editor, at, editor.tool);
  if (editor.tool === "polygon") return drawPolygon(editor, at);
  if (editor.tool === "brush" || editor.tool === "eraser") return paint(editor, at, editor.tool === "brush" ? 1 : 0);
  return editor.tool === "select" ? grab(editor, at) : null;
}

/** @param {Editor} editor @param {Press} at @param {string | null} [except] */
function snapping(editor, at, except = null) {
  const others = editor.doc.regions.filter(
    (region) => region.id !== except && !region.ui.hidden && region.shape.type !== "input",
  );
  const lines = at.free ? { x: [], y: [] } : snapLines(others.map((region) => boundsOf(region.shape)));
  const grid = at.free ? 0 : editor.snap;
  return { lines, step: { x: grid / editor.size.width, y: grid / editor.size.height } };
}

/** @param {Editor} editor @param {Press} at @param {string | null} [except] */
const snapped = (editor, at, except = null) => {
  const { lines, step } = snapping(editor, at, except);
  return snapPoint(at, lines, at.pull, step);
};

/** @param {Editor} editor */
function hasRoom(editor) {
  if (editor.doc.regions.length < LIMITS.regions) return true;
  editor.say("say.full", { limit: LIMITS.regions });
  return false;
}

/** @param {Editor} editor @param {string} key @returns {null} no gesture begins, and the reason is said */
function refuse(editor, key) {
  editor.say(key);
  return null;
}

/** Adds a region on top and selects it. @param {Editor} editor @param {Shape} shape @param {Partial<Region>} [extra] */
export function addRegion(editor, shape, extra = {}) {
  if (!hasRoom(editor)) return;
  const { doc } = editor.history.present;
  const region = makeRegion(doc, shape, extra);
  editor.commit({ ...doc, regions: [...doc.regions, region] }, { selected: region.id });
}

/** @param {Editor} editor @param {Press} from @param {"rect" | "ellipse"} type @returns {Gesture | null} */
function drawBox(editor, from, type) {
  if (!hasRoom(editor)) return null;
  const start = snapped(editor, from);
  const { doc } = editor;
  /** @param {Press} at */
  const boxAt = (at) => boxBetween(start, snapped(editor, at), at.shift, at.alt, editor.size);
  const moved = (/** @type {Press} */ at) =>
    Math.abs(at.x - from.x) > from.reach.x / 2 || Math.abs(at.y - from.y) > from.reach.y / 2;
  return {
    move(at) {
      const box = boxAt(at);
      if (!moved(at) || !box.width || !box.height) return editor.preview(doc);
      const region = makeRegion(doc, { type, ...box });
      editor.preview({ ...doc, regions: [...doc.regions, region] }, snapped(editor, at).guides);
    },
    end(at) {
      const box = boxAt(at);
      editor.cancel();
      if (!moved(at) || round6(box.width) <= 0 || round6(box.height) <= 0) return editor.say("say.dragToDraw");
      addRegion(editor, { type, ...box });
      editor.use("select");
    },
  };
}

/**
 * Each press adds a corner; pressing the first corner again closes.
 * @param {Editor} editor @param {Press} at @returns {Gesture | null}
 */
function drawPolygon(editor, at) {
  if (!hasRoom(editor)) return null;
  const point = snapped(editor, at);
  const corners = editor.corners ?? [];
  const [first] = corners;
  /** @param {import("./geometry.js").Point} spot */
  const meetsFirst = (spot) => Math.abs(first.x - spot.x) <= at.reach.x && Math.abs(first.y - spot.y) <= at.reach.y;
  // The grid may have drawn the first corner further from the first click than the pointer reaches.
  if (corners.length >= 3 && (meetsFirst(at) || meetsFirst(point))) {
    closePolygon(editor);
    return null;
  }
  if (corners.length < LIMITS.points)
    editor.corners = [...corners, { x: clamp(point.x, 0, 1), y: clamp(point.y, 0, 1) }];
  editor.notify();
  return { move: () => editor.notify(), end: () => editor.notify() };
}

/** @param {Editor} editor */
export function closePolygon(editor) {
  const corners = editor.corners ?? [];
  const points = corners.map(({ x, y }) => /** @type {[number, number]} */ ([round6(x), round6(y)]));
  const flat = [0, 1].some((axis) => points.every((point) => point[axis] === points[0][axis]));
  if (points.length < 3 || flat) return editor.say("say.threeCorners");
  editor.cancel();
  addRegion(editor, { type: "polygon", points });
  editor.use("select");
}

/** @param {Editor} editor @param {Press} from @returns {Gesture | null} */
function grab(editor, from) {
  const chosen = editor.region;
  if (chosen && !chosen.ui.locked && !chosen.ui.hidden) {
    const handle = nearestHandle(editor, chosen.shape, from);
    if (handle)
      return chosen.shape.type === "polygon"
        ? dragCorner(editor, chosen, handle, from)
        : resize(editor, chosen, handle);
  }
  const stack = regionsAt(editor.doc.regions, from);
  if (!stack.length) {
    editor.select(null);
    return null;
  }
  const place = stack.findIndex((region) => region.id === editor.selected);
  const region = from.alt ? stack[(place + 1) % stack.length] : stack[Math.max(0, place)];
  editor.select(region.id);
  return move(editor, region, from, () => !from.alt && editor.select(stack[0].id));
}

/** Handles, and for polygons the middles of the edges (ids m0, m1, ...). @param {Shape} shape */
export function allHandles(shape) {
  const handles = handlesOf(shape);
  if (shape.type !== "polygon" || shape.points.length >= LIMITS.points) return handles;
  const middles = shape.points.map(([x, y], n) => {
    const [nx, ny] = shape.points[(n + 1) % shape.points.length];
    return { id: `m${n}`, x: (x + nx) / 2, y: (y + ny) / 2 };
  });
  return [...handles, ...middles];
}

/** @param {Editor} editor @param {Shape} shape @param {Press} at */
export function nearestHandle(editor, shape, at) {
  const near = allHandles(shape)
    .map((handle) => ({
      id: handle.id,
      dx: Math.abs(handle.x - at.x) / at.reach.x,
      dy: Math.abs(handle.y - at.y) / at.reach.y,
    }))
    .filter(({ dx, dy }) => dx <= 1 && dy <= 1)
    .sort((a, b) => a.dx + a.dy - b.dx - b.dy + (a.id[0] === "m" ? 0.5 : 0) - (b.id[0] === "m" ? 0.5 : 0));
  return near[0]?.id ?? null;
}

/** @param {Editor} editor @param {Region} region @param {Press} from @param {() => void} click @returns {Gesture} */
function move(editor, region, from, click) {
  const { doc } = editor;
  const box = boundsOf(region.shape);
  const frozen = Boolean(region.ui.locked) || region.shape.type === "input";
  let moved = false;
  const shifted = (/** @type {Press} */ at) => {
    const { lines, step } = snapping(editor, at, region.id);
    const wanted = snapBox({ ...box, x: box.x + at.x - from.x, y: box.y + at.y - from.y }, lines, at.pull, step);
    const to = { ...box, ...keepInside(wanted) };
    return { doc: changeRegion(doc, region.id, { shape: fitInto(region.shape, to) }), guides: wanted.guides };
  };
  return {
    move(at) {
      moved ||= Math.abs(at.x - from.x) > from.reach.x / 3 || Math.abs(at.y - from.y) > from.reach.y / 3;
      if (!moved) return;
      if (frozen) return editor.say(region.ui.locked ? "say.locked" : "say.inputFixed");
      const next = shifted(at);
      editor.preview(next.doc, next.guides);
    },
    end(at) {
      editor.cancel();
      if (!moved) return click();
      if (!frozen) editor.commit(shifted(at).doc);
    },
  };
}

/** @param {Editor} editor @param {Region} region @param {string} handle @returns {Gesture} */
function resize(editor, region, handle) {
  const { doc } = editor;
  const box = boundsOf(region.shape);
  const resized = (/** @type {Press} */ at) => {
    const to = snapped(editor, at, region.id);
    const next = dragHandle(box, handle, { x: clamp(to.x, 0, 1), y: clamp(to.y, 0, 1) }, at.shift, editor.size);
    return { doc: changeRegion(doc, region.id, { shape: fitInto(region.shape, next) }), guides: to.guides };
  };
  return {
    move(at) {
      const next = resized(at);
      editor.preview(next.doc, next.guides);
    },
    end(at) {
      const next = resized(at);
      editor.cancel();
      editor.commit(next.doc);
    },
  };
}

/**
 * Moves a corner, makes one from the middle of an edge, or (alt) removes one.
 * @param {Editor} editor @param {Region} region @param {string} handle @param {Press} from
 * @returns {Gesture | null}
 */
function dragCorner(editor, region, handle, from) {
  const { doc } = editor;
  const shape = /** @type {import("./model.js").PolygonShape} */ (region.shape);
  const points = shape.points.slice();
  let index = Number(handle.slice(1));
  if (handle[0] === "m") points.splice((index += 1), 0, [from.x, from.y]);
  else if (from.alt) {
    if (points.length <= 3) editor.say("say.threeCorners");
    else editor.edit(region.id, { shape: { type: "polygon", points: points.filter((_, n) => n !== index) } });
    return null;
  }
  const dragged = (/** @type {Press} */ at) => {
    const to = snapped(editor, at, region.id);
    /** @type {[number, number]} */
    const corner = [round6(clamp(to.x, 0, 1)), round6(clamp(to.y, 0, 1))];
    const next = points.map((point, n) => (n === index ? corner : point));
    const flat = [0, 1].some((axis) => next.every((point) => point[axis] === next[0][axis]));
    return {
      doc: flat ? doc : changeRegion(doc, region.id, { shape: { type: "polygon", points: next } }),
      guides: to.guides,
    };
  };
  return {
    move(at) {
      const next = dragged(at);
      editor.preview(next.doc, next.guides);
    },
    end(at) {
      const next = dragged(at);
      editor.cancel();
      if (Math.abs(at.x - from.x) > from.reach.x / 4 || Math.abs(at.y - from.y) > from.reach.y / 4)
        editor.commit(next.doc);
    },
  };
}

/** The region's area as a grid to paint on. @param {Editor} editor @param {Shape} shape */
function gridOf(editor, shape) {
  const size = gridSize(editor.size.width, editor.size.height);
  if (shape.type === "mask" && Math.max(shape.width, shape.height) <= 2 * Math.max(size.width, size.height))
    return decodeRuns(shape);
  return { ...size, cells: sampleShape(shape, size.width, size.height) };
}

/** Turns any drawn shape into a brushed one. @param {Editor} editor @param {Region} region */
export function makePaintable(editor, region) {
  const grid = gridOf(editor, region.shape);
  if (!isEmpty(grid)) editor.edit(region.id, { shape: encodeRuns(grid) });
}

/**
 * The brush paints on the selected region if that is brushed, else it makes a new one. The eraser cuts into any
 * selected shape. @param {Editor} editor @param {Press} from @param {0 | 1} value @returns {Gesture | null}
 */
function paint(editor, from, value) {
  const { doc } = editor;
  const chosen = editor.region;
  if (chosen?.ui.locked) return refuse(editor, "say.locked");
  if (!value && (!chosen || chosen.shape.type === "input")) return refuse(editor, "say.chooseToErase");
  const target = chosen && (!value || chosen.shape.type === "mask") ? chosen : null;
  if (!target && !hasRoom(editor)) return null;
  const size = gridSize(editor.size.width, editor.size.height);
  const grid = target ? gridOf(editor, target.shape) : { ...size, cells: new Uint8Array(size.width * size.height) };
  let last = from;
  const stamp = (/** @type {Press} */ at) => {
    const radius = Math.max(0.5, editor.brush * Math.min(grid.width, grid.height) * at.pressure);
    stroke(grid, [last.x * grid.width, last.y * grid.height], [at.x * grid.width, at.y * grid.height], radius, value);
    last = at;
  };
  const painted = () => {
    if (isEmpty(grid))
      return target ? { ...doc, regions: doc.regions.filter((region) => region.id !== target.id) } : doc;
    const shape = encodeRuns(grid);
    if (target) return changeRegion(doc, target.id, { shape });
    return { ...doc, regions: [...doc.regions, makeRegion(doc, shape)] };
  };
  stamp(from);
  editor.preview(painted());
  return {
    move(at) {
      stamp(at);
      editor.preview(painted());
    },
    end() {
      const next = painted();
      editor.cancel();
      const gone = target && next.regions.length < doc.regions.length;
      editor.commit(next, { selected: gone ? null : (target?.id ?? next.regions.at(-1)?.id ?? null) });
      if (gone) editor.say("say.erasedAll", { name: target.name });
    },
  };
}
