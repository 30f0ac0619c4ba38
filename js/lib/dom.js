// Small helpers to build the widgets' elements.

/**
 * An element with attributes, listeners (names starting with "on") and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A button with a text for the eye and a longer one for tooltip and screen reader. @param {string} text @param {string} label @param {() => void} action */
export function button(text, label, action) {
  return make("button", { type: "button", title: label, "aria-label": label, onclick: action }, text);
}

/** A selection list. @param {string} label @param {Record<string, string>} options value to text @param {(value: string) => void} action */
export function choice(label, options, action) {
  const select = make("select", { title: label, "aria-label": label });
  for (const [value, text] of Object.entries(options)) select.append(make("option", { value }, text));
  select.addEventListener("change", () => action(select.value));
  return select;
}

/** Offer a picture as a download. @param {HTMLCanvasElement} canvas @param {string} name */
export function download(canvas, name) {
  canvas.toBlob((blob) => {
    if (!blob) return;
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}

const STYLE = `
.qusr-widget { position: relative; width: 100%; height: 100%; min-width: 0; box-sizing: border-box; }
.qusr-frame { position: absolute; inset: 0; display: flex; flex-direction: column; gap: 4px; font: 12px/1.35 sans-serif;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 6px; padding: 5px; box-sizing: border-box; overflow: hidden; }
.qusr-bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.qusr-bar .qusr-space { flex: 1; }
.qusr-bar button, .qusr-bar select, .qusr-bar input { font: inherit; color: inherit; height: 24px; padding: 0 7px; margin: 0;
  background: var(--comfy-menu-bg, #333); border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; cursor: pointer; }
.qusr-bar option { color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #333); }
.qusr-bar button:hover, .qusr-bar select:hover { border-color: currentColor; }
.qusr-bar button[aria-pressed="true"] { background: var(--input-text, #ddd); color: var(--comfy-input-bg, #222); }
.qusr-bar button:disabled { opacity: 0.4; cursor: default; }
.qusr-bar input[type="range"] { width: 80px; padding: 0; }
.qusr-widget :focus-visible { outline: 2px solid var(--p-primary-color, #4a9eff); outline-offset: -1px; }
.qusr-stage { position: relative; flex: 1; min-height: 60px; overflow: hidden; border-radius: 4px; touch-action: none;
  cursor: crosshair; background: repeating-conic-gradient(#8884 0% 25%, #8882 0% 50%) 0 0 / 16px 16px; }
.qusr-pane { position: absolute; inset: 0; overflow: hidden; }
.qusr-layer { position: absolute; left: 0; top: 0; transform-origin: 0 0; }
.qusr-layer > * { position: absolute; left: 0; top: 0; width: 100%; height: 100%; max-width: none; user-select: none;
  pointer-events: none; }
.qusr-layer.qusr-pixels > * { image-rendering: pixelated; }
.qusr-hint { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; padding: 16px;
  text-align: center; pointer-events: none; background: var(--comfy-input-bg, #222); }
.qusr-hint[hidden] { display: none; }
.qusr-chip { position: absolute; bottom: 6px; padding: 1px 6px; border-radius: 4px; background: #000a; color: #fff;
  pointer-events: none; white-space: nowrap; }
.qusr-divider { position: absolute; top: 0; bottom: 0; width: 24px; margin-left: -12px; cursor: ew-resize; touch-action: none; }
.qusr-divider::before { content: ""; position: absolute; inset: 0 11px; background: #fff; box-shadow: 0 0 2px #000; }
.qusr-divider::after { content: "\\2194"; position: absolute; left: 0; top: 50%; width: 24px; height: 24px; margin-top: -12px;
  border-radius: 50%; background: #fff; color: #000; text-align: center; line-height: 22px; box-shadow: 0 0 3px #000; }
.qusr-probe { position: absolute; width: 11px; height: 11px; margin: -6px 0 0 -6px; border: 1px solid #fff; border-radius: 50%;
  box-shadow: 0 0 0 1px #000; pointer-events: none; }
.qusr-histogram { position: relative; height: 40px; margin: 0 2px; }
.qusr-histogram svg { display: block; width: 100%; height: 32px; opacity: 0.75; }
.qusr-ramp { height: 8px; border-radius: 2px; }
.qusr-marker { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--p-primary-color, #4a9eff); }
.qusr-ends { display: flex; justify-content: space-between; margin: 0 2px; font-variant-numeric: tabular-nums; }
.qusr-readout { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 4px; min-height: 32px; }
.qusr-readout span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-variant-numeric: tabular-nums; }
.qusr-readout small { display: block; opacity: 0.75; font-size: 11px; }
`;

/** The style sheet as an element of the widget itself: the page's own head is shared by all extensions. */
export function styleElement() {
  return make("style", {}, STYLE);
}
