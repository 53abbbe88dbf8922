/** What the cast adds to the editor's style sheet. */

export const CAST_STYLE = `
.mos-cast { display: flex; flex-direction: column; min-height: 150px; background: var(--mos-panel); border: 1px solid var(--mos-line); border-radius: 8px; overflow: hidden; }
.mos-cast-list { list-style: none; margin: 0; padding: 6px; display: grid; gap: 6px; align-content: start; overflow: auto; flex: 1; min-height: 0; }
.mos-cast-row { display: grid; gap: 4px; padding: 5px 6px; border: 1px solid var(--mos-line); border-radius: 7px; }
.mos-cast-row:focus-within { border-color: var(--mos-accent); }
.mos-cast-top { display: flex; align-items: center; gap: 4px; min-width: 0; }
.mos-editor .mos-cast-top input[type="checkbox"] { width: 16px; flex: none; accent-color: var(--mos-accent); }
.mos-cast-picture { flex: none; width: 34px; height: 34px; border-radius: 5px; background: var(--mos-field) center / cover no-repeat; }
.mos-cast-file { flex: 1; min-width: 0; padding: 4px 7px; border: 1px solid var(--mos-line); border-radius: 5px; background: var(--mos-field); color: inherit;
  font: inherit; text-align: start; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; cursor: pointer; }
.mos-cast-fields { display: grid; grid-template-columns: 1fr 1.4fr 58px 58px 84px; gap: 4px; }
.mos-cast-says { min-height: 15px; color: var(--mos-muted); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mos-cast-says.mos-warn { color: var(--mos-warn); }
.mos-cast-empty { padding: 14px; text-align: center; color: var(--mos-muted); }
.mos-cast-add { white-space: nowrap; }
.mos-picker { position: absolute; inset: 8px; z-index: 3; display: flex; flex-direction: column; gap: 6px; padding: 8px; background: var(--mos-panel);
  border: 1px solid var(--mos-accent); border-radius: 8px; box-shadow: 0 8px 28px rgb(0 0 0 / 45%); }
.mos-picker-list { list-style: none; margin: 0; padding: 0; overflow: auto; flex: 1; min-height: 0; }
.mos-picker-list li { display: flex; align-items: center; gap: 8px; padding: 3px 5px; border-radius: 5px; cursor: pointer; }
.mos-picker-list li[aria-selected="true"], .mos-picker-list li:hover { background: color-mix(in srgb, var(--mos-accent) 20%, transparent); }
.mos-picker-list .mos-cast-picture { width: 24px; height: 24px; }
.mos-picker-folder { color: var(--mos-muted); }
.mos-picker-none { color: var(--mos-muted); }
`;
