// Hides the widgets that do nothing under a node's present settings, in both renderers.
import { app } from "../../scripts/app.js";
import { hiddenWidgets, SHOWN, spelledOut } from "./lib/shown.js";
import { renew } from "./lib/vue_nodes.js";

/** Files of QUSR Loader with two strengths (PiSA-SR), as the server lists them. @type {string[] | undefined} */
let twoStrengths;

/** @param {any} definition of QUSR Loader */
function readFiles(definition) {
  twoStrengths = definition?.input?.required?.checkpoint?.[1]?.two_strengths;
}

/** @param {any} node @returns {Record<string, any>} */
function valuesOf(node) {
  const values = Object.fromEntries((node.widgets ?? []).map((/** @type {any} */ widget) => [widget.name, widget.value]));
  return { ...values, twoStrengths: twoStrengths?.includes(values.checkpoint) };
}

/** @param {any} node @param {string} name */
function isConnected(node, name) {
  const slots = node.inputs ?? [];
  return slots.some((/** @type {any} */ slot) => slot.widget?.name === name && typeof slot.link === "number");
}

/** @param {any} node */
function update(node) {
  const hidden = hiddenWidgets(node.comfyClass, valuesOf(node));
  let changed = false;
  for (const widget of node.widgets ?? []) {
    if (!(widget.name in SHOWN[node.comfyClass])) continue;
    // A widget that became a connected input is shown: its value comes from there.
    const hide = hidden.includes(widget.name) && !isConnected(node, widget.name);
    if (Boolean(widget.hidden) === hide) continue;
    widget.hidden = hide;
    widget.options.hidden = hide; // what Nodes 2.0 reads
    // The classic renderer leaves a row for a hidden widget unless that has no height; -4 takes the gap below it too.
    if (hide) widget.computeSize = () => [0, -4];
    else delete widget.computeSize;
    changed = true;
  }
  if (!changed) return;
  renew(node);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "qusr.shown",

  beforeRegisterNodeDef(_, definition) {
    if (definition.name === "QUSRLoader") readFiles(definition);
  },

  refreshComboInNodes(definitions) {
    readFiles(definitions.QUSRLoader);
    for (const node of app.graph?.nodes ?? []) if (node.comfyClass === "QUSRLoader") update(node);
  },

  nodeCreated(node) {
    if (!(node.comfyClass in SHOWN)) return;
    for (const widget of node.widgets ?? []) {
      const { callback } = widget;
      widget.callback = function () {
        const result = callback?.apply(this, arguments);
        update(node);
        return result;
      };
    }
    const { onConfigure, onConnectionsChange } = node;
    node.onConfigure = function (/** @type {any} */ saved) {
      onConfigure?.apply(this, arguments);
      spellOut(node, saved);
      update(node);
    };
    node.onConnectionsChange = function () {
      const result = onConnectionsChange?.apply(this, arguments);
      update(node);
      return result;
    };
    update(node);
  },
});

/** @param {any} node @param {any} saved */
function spellOut(node, saved) {
  if (!Array.isArray(saved?.widgets_values)) return;
  const names = node.widgets.map((/** @type {any} */ widget) => widget.name).slice(0, saved.widgets_values.length);
  for (const [name, value] of Object.entries(spelledOut(node.comfyClass, valuesOf(node), names))) {
    const widget = node.widgets.find((/** @type {any} */ one) => one.name === name);
    if (widget) widget.value = value;
  }
}
