// Hides the widgets that do nothing under a node's present settings, in the classic renderer. Nodes 2.0 shows them all.
import { app } from "../../scripts/app.js";
import { hiddenWidgets, meantCustom, SHOWN } from "./lib/shown.js";

/** @param {any} node */
function valuesOf(node) {
  return Object.fromEntries((node.widgets ?? []).map((/** @type {any} */ widget) => [widget.name, widget.value]));
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
    // Not options.hidden: Nodes 2.0 (front end 1.32) reads that once and would never show the widget again.
    // The classic renderer leaves a row for a hidden widget unless that has no height; -4 takes the gap below it too.
    if (hide) widget.computeSize = () => [0, -4];
    else delete widget.computeSize;
    changed = true;
  }
  if (!changed) return;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "qusr.shown",

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
    const { onConfigure } = node;
    node.onConfigure = function (/** @type {any} */ saved) {
      onConfigure?.apply(this, arguments);
      adoptOldChoice(node, saved);
      update(node);
    };
    update(node);
  },
});

/** @param {any} node @param {any} saved */
function adoptOldChoice(node, saved) {
  if (node.comfyClass !== "QUSRAdaptiveNoise" || !Array.isArray(saved?.widgets_values)) return;
  const index = node.widgets.findIndex((/** @type {any} */ widget) => widget.name === "parameters");
  if (index < 0 || saved.widgets_values.length > index) return;
  if (meantCustom(valuesOf(node))) node.widgets[index].value = "custom";
}
