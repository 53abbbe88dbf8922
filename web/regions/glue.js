/** Two small things the adapter does to the host's objects, never to their classes. */

/**
 * Adds to a handler of this one object; what was there runs first.
 * @param {Record<string, any>} object
 * @param {string} name
 * @param {(...args: any[]) => unknown} added
 */
export function chain(object, name, added) {
  const before = object[name];
  object[name] = function (/** @type {unknown[]} */ ...args) {
    const result = before?.apply(this, args);
    added(...args);
    return result;
  };
}

/**
 * Takes the graph's undo step; after a gesture that ended with a mouseup it finds nothing new and takes none.
 * @param {any} app
 */
export function snapshot(app) {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}
