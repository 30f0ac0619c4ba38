// What a widget remembers. Choices (mode, channel) are saved with the workflow in node.properties; the place one looks at
// (zoom, slider) and the last result live in the browser tab: they survive a reload, but are no edits to undo.

const PREFIX = "qusr:";

/** Results of this tab from before the page was loaded; each is handed out once. @type {Map<string, any>} */
const earlier = new Map();
for (let i = 0; i < sessionStorage.length; i++) {
  const key = sessionStorage.key(i) ?? "";
  if (key.startsWith(`${PREFIX}output:`)) earlier.set(key, sessionStorage.getItem(key));
}

/** The key under which ComfyUI keeps a node's output: subgraph and node. @param {any} node */
export function locator(node) {
  const { graph } = node;
  return !graph || graph.isRootGraph !== false ? String(node.id) : `${graph.id}:${node.id}`;
}

/** @param {any} node @param {string} kind */
function keyOf(node, kind) {
  const root = node.graph?.rootGraph ?? node.graph;
  return `${PREFIX}${kind}:${root?.id ?? ""}:${locator(node)}`;
}

/** @param {string} key @param {any} value */
function write(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    console.debug("QUSR: the browser tab's storage is full; this view is not remembered", error);
  }
}

/** @param {any} node @param {any} output */
export function rememberOutput(node, output) {
  const key = keyOf(node, "output");
  earlier.delete(key);
  write(key, output);
}

/** The node's last result in this tab. @param {any} node */
export function lastOutput(node) {
  const text = sessionStorage.getItem(keyOf(node, "output"));
  return text ? JSON.parse(text) : null;
}

/** The node's result from before the page was reloaded, once. @param {any} node */
export function earlierOutput(node) {
  const key = keyOf(node, "output");
  const text = earlier.get(key);
  earlier.delete(key);
  return text ? JSON.parse(text) : null;
}

/** @param {any} node @param {Record<string, any>} place */
export function rememberPlace(node, place) {
  write(keyOf(node, "place"), place);
}

/** @param {any} node @returns {Record<string, any>} */
export function rememberedPlace(node) {
  const text = sessionStorage.getItem(keyOf(node, "place"));
  return text ? JSON.parse(text) : {};
}
