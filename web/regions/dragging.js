/** A press that moves becomes a drag; one that does not stays a click. */

/** @typedef {{move: (at: PointerEvent) => void, end: (at: PointerEvent | null) => void}} Drag null: taken back */

const LEAST = 5; // pixels of the screen

/** @param {HTMLElement} root @param {(press: PointerEvent) => Drag | null} begin null where nothing is to be dragged */
export function watchDrags(root, begin) {
  root.addEventListener("pointerdown", (press) => {
    const drag = press.button === 0 ? begin(press) : null;
    if (!drag) return;
    let moving = false;
    const stop = (/** @type {PointerEvent | null} */ at, held = false) => {
      for (const [name, listener] of Object.entries(listeners)) root.removeEventListener(name, listener);
      if (!moving) return;
      const free = () => setTimeout(() => root.removeEventListener("click", swallow, true));
      root.addEventListener("click", swallow, true);
      // Taken back while the button is down: the click comes when it is let go.
      if (held) root.ownerDocument.addEventListener("pointerup", free, { once: true, capture: true });
      else free();
      drag.end(at);
    };
    /** @type {Record<string, (event: any) => void>} */
    const listeners = {
      pointermove(at) {
        if (at.pointerId !== press.pointerId) return;
        moving ||= Math.hypot(at.clientX - press.clientX, at.clientY - press.clientY) > LEAST;
        if (moving) drag.move(at);
      },
      pointerup: (at) => at.pointerId === press.pointerId && stop(at),
      lostpointercapture: (at) => at.pointerId === press.pointerId && stop(null), // also when its element is gone
      keydown(event) {
        if (event.key !== "Escape" || !moving) return;
        event.stopPropagation();
        stop(null, true);
      },
    };
    for (const [name, listener] of Object.entries(listeners)) root.addEventListener(name, listener);
    /** @type {Element} */ (press.target).setPointerCapture?.(press.pointerId);
  });
}

/** @param {Event} click */
const swallow = (click) => click.stopPropagation();
