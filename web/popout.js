/** The large editor: the same element, over the whole page, until it goes back into its node. */

const STYLE = "position: fixed; inset: 0; z-index: 1000; display: grid; padding: 2vmin; background: rgb(0 0 0 / 55%)";

/**
 * @param {HTMLElement} root @param {() => void} back asked for by a click beside it
 * @returns {() => void} puts it back
 */
export function popOut(root, back) {
  const place = document.createComment("Mix-of-Show");
  const sheet = document.createElement("div");
  sheet.style.cssText = STYLE;
  sheet.setAttribute("role", "dialog");
  sheet.setAttribute("aria-modal", "true");
  sheet.addEventListener("pointerdown", (event) => event.target === sheet && back());
  root.replaceWith(place);
  sheet.append(root);
  document.body.append(sheet);
  return () => {
    place.replaceWith(root);
    sheet.remove();
  };
}
