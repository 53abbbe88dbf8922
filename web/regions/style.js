/** The editor's style sheet, put inside its own root. Colours follow the host's theme. */

export const STYLE = `
.mos-editor { --mos-text: var(--input-text, #dddddd); --mos-muted: var(--descrip-text, #9a9aa2); --mos-line: var(--border-color, #4a4a52);
  --mos-panel: var(--comfy-menu-bg, #25252a); --mos-field: var(--comfy-input-bg, #1c1c20); --mos-canvas: var(--comfy-input-bg, #1c1c20);
  --mos-accent: #3b9cf0; --mos-warn: #e0a020; container-type: inline-size; position: relative; width: 100%; height: 100%; min-height: 420px;
  box-sizing: border-box; color: var(--mos-text); font: 12px/1.35 system-ui, sans-serif; pointer-events: auto; text-align: start; user-select: none; }
.mos-editor *, .mos-editor *::before { box-sizing: border-box; }
.mos-frame { display: grid; grid-template: auto minmax(160px, 1fr) auto / minmax(0, 1fr); height: 100%; min-height: inherit; background: var(--mos-panel);
  border: 1px solid var(--mos-line); border-radius: 8px; overflow: hidden; }
.mos-main { display: grid; grid-template: minmax(180px, 1.1fr) minmax(120px, 1fr) / minmax(0, 1fr); min-height: 0; }
@container (min-width: 620px) { .mos-main { grid-template: minmax(0, 1fr) / minmax(0, 1fr) 264px; }
  .mos-panel { border-top: 0 !important; border-inline-start: 1px solid var(--mos-line); } }
.mos-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 6px; padding: 5px 6px; border-bottom: 1px solid var(--mos-line); }
.mos-strip { display: flex; align-items: center; gap: 6px; padding: 4px 6px; border-bottom: 1px solid var(--mos-line); }
.mos-strip select { width: auto; flex: none; max-width: 130px; }
.mos-strip .mos-text-button { flex: none; display: flex; align-items: center; gap: 4px; }
.mos-chips { display: flex; gap: 4px; min-width: 0; overflow-x: auto; scrollbar-width: thin; }
.mos-chip { display: flex; flex: none; align-items: center; gap: 5px; height: 26px; padding: 0 8px 0 4px; border: 2px solid; border-radius: 13px; background: var(--mos-field);
  color: inherit; font: inherit; cursor: grab; touch-action: none; }
.mos-names { position: absolute; z-index: 4; pointer-events: auto; list-style: none; margin: 0; padding: 3px; max-height: 210px; overflow: auto; background: var(--mos-panel, var(--comfy-menu-bg, #25252a));
  color: var(--input-text, #dddddd); border: 1px solid var(--mos-accent, #3b9cf0); border-radius: 6px; box-shadow: 0 8px 28px rgb(0 0 0 / 45%); font: 12px/1.35 system-ui, sans-serif; }
.mos-names li { display: flex; align-items: center; gap: 6px; padding: 3px 6px; border-radius: 4px; cursor: pointer; }
.mos-names li[aria-selected="true"] { background: color-mix(in srgb, #3b9cf0 28%, transparent); }
.mos-group { display: flex; align-items: center; gap: 2px; }
.mos-space { flex: 1; }
.mos-button { display: inline-grid; place-items: center; min-width: 28px; height: 28px; padding: 0 5px; border: 1px solid transparent; border-radius: 6px;
  background: transparent; color: inherit; font: inherit; cursor: pointer; touch-action: manipulation; }
.mos-button:hover:not(:disabled) { background: color-mix(in srgb, var(--mos-text) 12%, transparent); }
.mos-button[aria-pressed="true"] { background: color-mix(in srgb, var(--mos-accent) 24%, transparent); border-color: var(--mos-accent); }
.mos-button:disabled { opacity: 0.35; cursor: default; }
.mos-text-button { border-color: var(--mos-line); padding: 0 10px; }
.mos-small { min-width: 22px; height: 22px; padding: 0 2px; }
.mos-icon { width: 17px; height: 17px; fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linecap: round; stroke-linejoin: round; }
.mos-small .mos-icon { width: 14px; height: 14px; }
.mos-editor :is(input, textarea, select) { width: 100%; min-width: 0; margin: 0; padding: 4px 6px; border: 1px solid var(--mos-line); border-radius: 5px;
  background: var(--mos-field); color: var(--mos-text); font: inherit; user-select: text; }
.mos-editor input[type="range"] { padding: 0; border: 0; background: none; accent-color: var(--mos-accent); height: 20px; }
.mos-editor input[type="color"] { padding: 1px; height: 25px; }
.mos-editor select { appearance: auto; }
.mos-bar select, .mos-bar input { width: auto; }
.mos-bar input[type="range"] { width: 64px; }
.mos-bar label { display: flex; align-items: center; gap: 5px; color: var(--mos-muted); }
.mos-editor textarea { resize: vertical; display: block; }
.mos-editor :is(button, input, textarea, select, summary):focus-visible, .mos-stage:focus-within .mos-ring { outline: 2px solid var(--mos-accent); outline-offset: 1px; }
.mos-stage { position: relative; overflow: hidden; min-height: 0; background: color-mix(in srgb, var(--mos-panel) 82%, #000); }
.mos-stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none; }
.mos-ring { position: absolute; inset: 2px; border-radius: 4px; pointer-events: none; outline-offset: -1px !important; }
.mos-proxy { position: absolute !important; inset: 0 auto auto 0; width: 1px !important; height: 1px; padding: 0 !important; opacity: 0; pointer-events: none; resize: none !important; overflow: hidden; }
.mos-empty { position: absolute; inset: 0; display: grid; place-items: center; padding: 24px; text-align: center; color: var(--mos-muted); font-size: 13px; pointer-events: none; }
.mos-panel { display: flex; flex-direction: column; min-height: 0; border-top: 1px solid var(--mos-line); }
.mos-list { list-style: none; margin: 0; padding: 4px; overflow: auto; flex: 0 1 auto; min-height: 58px; max-height: 42%; border-bottom: 1px solid var(--mos-line); }
.mos-row { display: flex; align-items: center; gap: 3px; padding: 1px 3px; border-radius: 6px; border: 1px solid transparent; }
.mos-row:has(> [aria-current="true"]) { border-color: var(--mos-accent); background: color-mix(in srgb, var(--mos-accent) 15%, transparent); }
.mos-row.mos-blamed { border-color: #ff4d4d; }
.mos-pick { display: flex; flex: 1; align-items: center; gap: 7px; min-width: 0; height: 24px; padding: 0 2px; border: 0; background: none; color: inherit; font: inherit; text-align: start; cursor: pointer; }
.mos-name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; flex: 1; }
.mos-editor .mos-row > input[type="checkbox"] { width: 14px; flex: none; accent-color: var(--mos-accent); }
.mos-pick .mos-number { cursor: grab; touch-action: none; }
.mos-dragged { opacity: 0.5; }
.mos-before { box-shadow: 0 -2px var(--mos-accent); }
.mos-after { box-shadow: 0 2px var(--mos-accent); }
.mos-thumb { flex: none; width: 20px; height: 20px; border-radius: 4px; background: center / cover no-repeat; }
.mos-number { display: inline-grid; place-items: center; min-width: 18px; height: 17px; border-radius: 3px; color: #101014; font-weight: 600; font-size: 11px; }
.mos-share { color: var(--mos-muted); font-variant-numeric: tabular-nums; }
.mos-dim { opacity: 0.5; }
.mos-warn { color: var(--mos-warn); }
.mos-fields { overflow: auto; padding: 8px; display: grid; gap: 7px; align-content: start; flex: 1 1 0; min-height: 0; }
.mos-field { display: grid; gap: 2px; }
.mos-field > span { color: var(--mos-muted); }
.mos-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 7px; }
.mos-quad { display: grid; grid-template-columns: repeat(4, 1fr); gap: 5px; }
.mos-slide { display: grid; grid-template-columns: 1fr 56px; gap: 7px; align-items: center; }
.mos-fields details { display: grid; gap: 7px; }
.mos-fields details > :not(summary) { margin-top: 7px; }
.mos-fields summary { cursor: pointer; color: var(--mos-muted); padding: 2px 0; }
.mos-bad { border-color: var(--mos-warn) !important; }
.mos-foot { display: flex; gap: 10px; align-items: center; min-height: 26px; padding: 3px 9px; border-top: 1px solid var(--mos-line); color: var(--mos-muted); font-variant-numeric: tabular-nums; }
.mos-say { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mos-meter { width: 64px; height: 6px; border-radius: 3px; overflow: hidden; background: color-mix(in srgb, var(--mos-text) 16%, transparent); }
.mos-meter i { display: block; height: 100%; background: var(--mos-accent); }
.mos-notes { margin: 6px; padding: 7px 9px; border: 1px solid var(--mos-warn); border-radius: 6px; }
.mos-notes ul { margin: 4px 0 0; padding-inline-start: 18px; max-height: 92px; overflow: auto; }
.mos-sheet { position: absolute; inset: 44px 10px auto auto; width: min(360px, calc(100% - 20px)); padding: 10px; display: grid; gap: 8px; z-index: 2;
  background: var(--mos-panel); border: 1px solid var(--mos-line); border-radius: 8px; box-shadow: 0 8px 28px rgb(0 0 0 / 45%); }
.mos-actions { display: flex; flex-wrap: wrap; gap: 6px; }
.mos-actions label { position: relative; overflow: hidden; cursor: pointer; }
.mos-actions input[type="file"] { position: absolute; inset: 0; opacity: 0; cursor: pointer; }
.mos-editor [hidden] { display: none !important; }
.mos-away { visibility: hidden; }
.mos-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@container (max-width: 480px) { .mos-foot > span:last-child { display: none; } }
@media (pointer: coarse) { .mos-button, .mos-pick { min-width: 44px; min-height: 44px; } .mos-editor :is(input, select) { min-height: 40px; } }
@media (prefers-reduced-motion: no-preference) { .mos-button, .mos-row { transition: background-color 0.12s; } }
`;
