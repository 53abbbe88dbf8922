/** The cast's list in an element. Knows nothing of ComfyUI: everything it needs comes through `ctx`. */

import { el, iconButton, setField } from "../regions/dom.js";
import { STYLE } from "../regions/style.js";
import { translator } from "../regions/texts.js";
import { CAST_STYLE } from "./style.js";
import { openPicker } from "./picker.js";
import {
  MAX_ROWS,
  ROLES,
  clampStrength,
  duplicateRow,
  makeRow,
  moveRow,
  readCast,
  removeRow,
  setRow,
  writeCast,
} from "./model.js";

/**
 * @typedef {{names: string[] | null, trigger: string, source: string, suggestions: string[], picture: string,
 *   missing: boolean}} Facts what the server knows of a file
 * @typedef {object} Context
 * @property {string} value the stored text
 * @property {(value: string, final: boolean) => void} change `final` ends a gesture or a visit to a field
 * @property {(file: string) => Facts | null} facts null while they are asked for
 * @property {() => string[]} files
 * @property {Record<string, string>} [texts]
 * @property {(listener: (value?: string) => void) => () => void} subscribe
 */

/** @param {HTMLElement} host @param {Context} ctx @returns {() => void} cleanup */
export function mountCast(host, ctx) {
  const translate = translator(ctx.texts);
  let { rows, dropped, broken } = readCast(ctx.value);
  const list = el("ol", { className: "mos-cast-list" });
  const empty = el("div", { className: "mos-cast-empty", textContent: translate("cast.empty") });
  const note = el("div", { className: "mos-notes", role: "alert", hidden: true });
  const say = el("span", { className: "mos-say", role: "status", "aria-live": "polite" });
  const add = el(
    "button",
    { type: "button", className: "mos-button mos-text-button mos-cast-add", onclick: () => pick(-1) },
    [translate("cast.add")],
  );
  const root = el("div", { className: "mos-editor mos-cast", role: "group", "aria-label": translate("cast") }, [
    el("style", { textContent: STYLE + CAST_STYLE }),
    note,
    list,
    empty,
    el("div", { className: "mos-foot" }, [add, say]),
  ]);

  /** @param {import("./model.js").Row[]} next @param {boolean} [final] */
  const commit = (next, final = true) => {
    if (next === rows) return;
    rows = next;
    dropped = 0;
    broken = false;
    ctx.change(writeCast(rows), final);
    draw();
  };
  /** Chooses a file for a row, or for a new one (-1). @param {number} index */
  const pick = (index) =>
    openPicker(root, {
      translate,
      files: ctx.files,
      subscribe: ctx.subscribe,
      chosen: rows[index]?.file ?? "",
      facts: ctx.facts,
      take: (file) => {
        if (index >= 0) commit(setRow(rows, index, { file, name: "", trigger: "" }));
        else if (rows.length >= MAX_ROWS) say.textContent = translate("cast.full", { limit: MAX_ROWS });
        else commit([...rows, makeRow({ file })]);
        focusRow(index >= 0 ? index : rows.length - 1);
      },
    });
  const focusRow = (/** @type {number} */ index) =>
    /** @type {HTMLElement | null} */ (list.children[index]?.querySelector(".mos-cast-file"))?.focus();

  /** Rows are kept as elements while their number stays, so that typing is not disturbed. */
  const draw = () => {
    while (list.children.length > rows.length) list.lastElementChild?.remove();
    while (list.children.length < rows.length) list.append(makeItem(list.children.length));
    rows.forEach((row, index) => updateItem(/** @type {HTMLElement} */ (list.children[index]), row));
    empty.hidden = rows.length > 0;
    note.hidden = !broken && !dropped;
    note.textContent = broken ? translate("cast.broken") : dropped ? translate("cast.dropped", { count: dropped }) : "";
  };

  /** @param {number} index */
  const makeItem = (index) => {
    const set = (/** @type {Partial<import("./model.js").Row>} */ change, final = true) =>
      commit(setRow(rows, index, change), final);
    const text = (/** @type {"name" | "trigger"} */ key) =>
      el("input", {
        type: "text",
        maxLength: 1000,
        "aria-label": translate(`cast.${key}`),
        title: translate(`cast.${key}.help`),
        "data-field": key,
        oninput: (/** @type {any} */ event) => set({ [key]: event.target.value }, false),
        onchange: (/** @type {any} */ event) => ctx.change(writeCast(rows), event.type === "change"),
      });
    const number = (/** @type {"strength" | "text_strength"} */ key) =>
      el("input", {
        type: "number",
        step: 0.05,
        min: -10,
        max: 10,
        "aria-label": translate(`cast.${key}`),
        title: translate(`cast.${key}.help`),
        "data-field": key,
        onchange: (/** @type {any} */ event) => {
          const typed = event.target.value.trim() === "" ? NaN : Number(event.target.value);
          set({ [key]: clampStrength(typed, key === "strength" ? 1 : null) });
        },
      });
    const role = el(
      "select",
      {
        "aria-label": translate("cast.role"),
        title: translate("cast.role.help"),
        "data-field": "role",
        onchange: (/** @type {any} */ event) => set({ role: event.target.value }),
      },
      ROLES.map((value) => el("option", { value, textContent: translate(`cast.role.${value}`) })),
    );
    const item = el("li", { className: "mos-cast-row", draggable: false }, [
      el("div", { className: "mos-cast-top" }, [
        el("input", {
          type: "checkbox",
          "aria-label": translate("cast.on"),
          title: translate("cast.on"),
          "data-field": "on",
          onchange: (/** @type {any} */ event) => set({ on: event.target.checked }),
        }),
        el("span", { className: "mos-cast-picture", "aria-hidden": "true" }),
        el("button", { type: "button", className: "mos-cast-file", onclick: () => pick(index) }),
        iconButton("up", translate("cast.up"), () => shift(index, -1), { className: "mos-button mos-small" }),
        iconButton("down", translate("cast.down"), () => shift(index, 1), { className: "mos-button mos-small" }),
        iconButton("copy", translate("cast.duplicate"), () => commit(duplicateRow(rows, index)), {
          className: "mos-button mos-small",
        }),
        iconButton("trash", translate("cast.remove"), () => remove(index), { className: "mos-button mos-small" }),
      ]),
      el("div", { className: "mos-cast-fields" }, [
        text("name"),
        text("trigger"),
        number("strength"),
        number("text_strength"),
        role,
      ]),
      el("div", { className: "mos-cast-says" }),
    ]);
    item.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (step && event.altKey) (event.preventDefault(), shift(index, step));
    });
    return item;
  };
  const shift = (/** @type {number} */ index, /** @type {number} */ step) => {
    commit(moveRow(rows, index, index + step));
    focusRow(Math.min(Math.max(index + step, 0), rows.length - 1));
  };
  const remove = (/** @type {number} */ index) => {
    const { file } = rows[index];
    commit(removeRow(rows, index));
    say.textContent = translate("cast.removed", { file });
    if (rows.length) focusRow(Math.min(index, rows.length - 1));
    else add.focus();
  };

  /** @param {HTMLElement} item @param {import("./model.js").Row} row */
  const updateItem = (item, row) => {
    const facts = row.file ? ctx.facts(row.file) : null;
    const field = (/** @type {string} */ name) => /** @type {any} */ (item.querySelector(`[data-field=${name}]`));
    field("on").checked = row.on;
    for (const key of /** @type {const} */ (["name", "trigger"])) setField(field(key), row[key]);
    setField(field("strength"), String(row.strength));
    setField(field("text_strength"), row.text_strength === null ? "" : String(row.text_strength));
    field("text_strength").placeholder = String(row.strength);
    field("role").value = row.role;
    field("name").placeholder = facts?.names?.join(", ") || translate("cast.name");
    field("trigger").placeholder = facts?.trigger || facts?.suggestions[0] || translate("cast.trigger");
    item.classList.toggle("mos-dim", !row.on);
    const file = /** @type {HTMLElement} */ (item.querySelector(".mos-cast-file"));
    file.textContent = row.file || translate("cast.choose");
    file.title = row.file;
    const wrong = row.on && (!row.file || facts?.missing);
    file.classList.toggle("mos-bad", Boolean(wrong));
    const picture = /** @type {HTMLElement} */ (item.querySelector(".mos-cast-picture"));
    picture.style.backgroundImage = facts?.picture ? `url("${facts.picture}")` : "";
    const says = /** @type {HTMLElement} */ (item.querySelector(".mos-cast-says"));
    says.textContent = saysOf(row, facts);
    says.classList.toggle("mos-warn", Boolean(wrong));
  };

  /** One line: what to type, or what is wrong. @param {import("./model.js").Row} row @param {Facts | null} facts */
  const saysOf = (row, facts) => {
    if (!row.file) return translate("cast.noFile");
    if (facts?.missing) return translate("cast.missing", { file: row.file });
    if (!facts?.names) return "";
    const name = row.name.trim() || facts.names.join(", ");
    const trigger = row.trigger.trim() || facts.trigger;
    if (!name) return "";
    return trigger ? translate("cast.calls", { name, trigger }) : translate("cast.type", { name });
  };

  for (const name of ["keydown", "keyup"])
    root.addEventListener(name, (event) => {
      const { key, ctrlKey, metaKey } = /** @type {KeyboardEvent} */ (event);
      if (!((ctrlKey || metaKey) && ["Enter", "s", "o"].includes(key))) event.stopPropagation();
    });
  for (const name of ["copy", "cut", "paste", "dblclick"])
    root.addEventListener(name, (event) => event.stopPropagation());
  root.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  root.addEventListener("wheel", (event) => list.scrollHeight > list.clientHeight && event.stopPropagation());
  host.append(root);
  draw();
  const leave = ctx.subscribe((value) => {
    if (value !== undefined && value !== writeCast(rows)) ({ rows, dropped, broken } = readCast(value));
    draw();
  });
  return () => (leave(), root.remove());
}
