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

/**
 * Nodes 2.0 of front end 1.32 keeps a node's component when the graph is rebuilt (undo, reload), with the element of
 * the node that is gone. The new node's element then takes that place; where the host attaches it, nothing happens.
 * @param {HTMLElement} element
 * @param {{id: number | string}} node
 */
export function takeLeftPlace(element, node) {
  const left = document.querySelector(`[data-mixofshow-left="${CSS.escape(String(node.id))}"]`);
  if (left && !element.isConnected) left.replaceWith(element);
}

/**
 * Marks an element whose node is gone.
 * @param {HTMLElement} element
 * @param {{id: number | string}} node
 */
export function leavePlace(element, node) {
  element.dataset.mixofshowLeft = String(node.id);
}
