/** Completes concept names while somebody types them in a prompt. */

import { el, thumbnail } from "./dom.js";
import { fold } from "./fields.js";

/**
 * @typedef {import("./panel.js").Concepts} Concepts
 * @typedef {HTMLTextAreaElement | HTMLInputElement} Field
 */

const SHOWN = 8;
const WORD = /[\p{L}\p{N}\p{M}_-]+$/u;

/** The word that ends at the caret, unless it goes on behind it. @param {string} text @param {number} caret */
export function wordBefore(text, caret) {
  if (/^[\p{L}\p{N}\p{M}_-]/u.test(text.slice(caret))) return "";
  return WORD.exec(text.slice(0, caret))?.[0] ?? "";
}

/** Names that begin with the word and are longer. @param {readonly string[]} names @param {string} word */
export function completions(names, word) {
  const begun = fold(word);
  if (!begun || names.some((name) => fold(name) === begun)) return [];
  return names.filter((name) => fold(name).startsWith(begun)).slice(0, SHOWN);
}

/**
 * A list of names that appears below a field.
 * @param {HTMLElement} layer the element that it lies in, which must be positioned
 * @param {import("./texts.js").Translate} translate
 */
export function makeCompleter(layer, translate) {
  /** @type {string[]} */
  let found = [];
  let current = 0;
  /** @type {Field | null} */
  let field = null;
  const list = el("ul", { className: "mos-names", role: "listbox", "aria-label": translate("names") });

  const close = () => {
    list.remove();
    found = [];
    field = null;
  };
  const mark = (/** @type {number} */ index) => {
    current = (index + found.length) % found.length;
    [...list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === current)));
  };
  const take = (/** @type {number} */ index) => {
    const chosen = field;
    const name = found[index];
    close();
    if (!chosen || name === undefined) return;
    const caret = chosen.selectionEnd ?? chosen.value.length;
    chosen.focus({ preventScroll: true });
    chosen.setSelectionRange(caret - wordBefore(chosen.value, caret).length, caret);
    document.execCommand("insertText", false, name); // as if typed: the field's own undo and listeners know it
  };
  const place = (/** @type {Field} */ below) => {
    const [seen, box] = [layer.getBoundingClientRect(), below.getBoundingClientRect()];
    const zoom = seen.width / (layer.offsetWidth || seen.width);
    list.style.left = `${(box.left - seen.left) / zoom}px`;
    list.style.top = `${(box.bottom - seen.top) / zoom + 2}px`;
    list.style.minWidth = `${Math.min(220, box.width / zoom)}px`;
    layer.append(list);
  };

  return {
    close,
    /** After each change of a field. @param {Field} typed @param {Concepts} known */
    show(typed, known) {
      const caret = typed.selectionStart;
      const alone = caret !== null && caret === typed.selectionEnd;
      found = alone ? completions(known.names, wordBefore(typed.value, caret)) : [];
      if (!found.length) return close();
      field = typed;
      list.replaceChildren(
        ...found.map((name, n) =>
          el(
            "li",
            {
              role: "option",
              onpointerdown: (/** @type {Event} */ event) => {
                event.preventDefault(); // the field keeps the focus
                event.stopPropagation();
                take(n);
              },
            },
            [thumbnail(known.pictures?.[name]), name],
          ),
        ),
      );
      mark(0);
      place(typed);
    },
    /** Whether the key was ours. @param {KeyboardEvent} event */
    key(event) {
      if (!found.length || event.isComposing) return false;
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) mark(current + step);
      else if (event.key === "Enter" || event.key === "Tab") take(current);
      else if (event.key === "Escape") close();
      else return false;
      event.preventDefault();
      event.stopPropagation();
      return true;
    },
  };
}
