/** The file list: a search field over all files, folders included, with their pictures; mouse and keyboard. */

import { el } from "../regions/dom.js";
import { searchFiles } from "./model.js";

const SHOWN = 200;

/**
 * @param {HTMLElement} root
 * @param {{translate: import("../regions/texts.js").Translate, files: () => string[], chosen: string,
 *   subscribe: (listener: () => void) => () => void,
 *   facts: (file: string) => import("./view.js").Facts | null, take: (file: string) => void}} ask
 */
export function openPicker(root, ask) {
  const { translate } = ask;
  /** @type {string[]} */
  let found = [];
  let current = 0;
  const options = el("ul", { className: "mos-picker-list", role: "listbox", id: "mos-picker" });
  const search = el("input", {
    type: "search",
    placeholder: translate("cast.search"),
    "aria-label": translate("cast.search"),
    "aria-controls": "mos-picker",
    oninput: () => show(),
    onkeydown: (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
      if (step) {
        event.preventDefault();
        mark(Math.min(Math.max(current + step, 0), found.length - 1));
      } else if (event.key === "Enter") {
        event.preventDefault(); // the button that is focused next would be pressed
        if (found[current] !== undefined) choose(found[current]);
      } else if (event.key === "Escape") close();
    },
  });
  const sheet = el("div", { className: "mos-picker", role: "dialog", "aria-label": translate("cast.choose") }, [
    search,
    options,
  ]);

  const close = () => {
    leave();
    root.removeEventListener("pointerdown", outside, true);
    sheet.remove();
  };
  const outside = (/** @type {Event} */ event) => {
    if (!sheet.contains(/** @type {Node} */ (event.target))) close();
  };
  const choose = (/** @type {string} */ file) => (close(), ask.take(file));
  const mark = (/** @type {number} */ index) => {
    options.children[current]?.setAttribute("aria-selected", "false");
    current = index;
    options.children[current]?.setAttribute("aria-selected", "true");
    options.children[current]?.scrollIntoView({ block: "nearest" });
  };
  /** @param {string} [chosen] the file that is marked, if it is listed */
  const show = (chosen = ask.chosen) => {
    const all = searchFiles(ask.files(), search.value);
    found = all.slice(0, SHOWN);
    options.replaceChildren(
      ...found.map((file) => {
        const picture = el("span", { className: "mos-cast-picture", "aria-hidden": "true" });
        const url = ask.facts(file)?.picture;
        if (url) picture.style.backgroundImage = `url("${url}")`;
        const [name, ...folders] = file.split("/").reverse();
        return el("li", { role: "option", "aria-selected": "false", title: file, onclick: () => choose(file) }, [
          picture,
          el("span", {}, [name]),
          el("span", { className: "mos-picker-folder" }, [folders.reverse().join("/")]),
        ]);
      }),
      ...(found.length ? [] : [el("li", { className: "mos-picker-none", textContent: translate("cast.none") })]),
    );
    mark(Math.max(found.indexOf(chosen), 0));
  };
  const leave = ask.subscribe(() => show(found[current])); // files and pictures arrive when they do
  root.append(sheet);
  root.addEventListener("pointerdown", outside, true);
  show();
  search.focus();
}
