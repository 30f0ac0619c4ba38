// Nodes 2.0 copies what it shows of a node's widgets; this makes it look again.

/** @param {any} node whose widgets' options changed */
export function renew(node) {
  const { widgets, graph } = node;
  if (!widgets?.length || !/** @type {any} */ (globalThis).LiteGraph?.vueNodesMode) return;
  widgets.push(widgets.pop()); // a list that Nodes 2.0 watches
  // Front ends before 1.33 lose that list with the first change of a value, and read a node anew when it is added. They
  // also wrap the callbacks then, which are wrapped already.
  if (!graph || typeof widgets[0].setNodeId === "function") return;
  const callbacks = widgets.map((/** @type {any} */ widget) => widget.callback);
  graph.onNodeAdded?.(node);
  widgets.forEach((/** @type {any} */ widget, /** @type {number} */ index) => (widget.callback = callbacks[index]));
}
