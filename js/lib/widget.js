// Puts a widget on a node and feeds it: one path for the classic renderer and Nodes 2.0.
import { app } from "../../../scripts/app.js";
import { make, styleElement } from "./dom.js";
import { earlierOutput, lastOutput, locator, rememberOutput } from "./session.js";

/**
 * What a viewer must offer. `show` gets the list under the node's output key; `settle` is called when the node has its
 * id and properties (after loading or pasting); `refresh` when a setting of the node may have changed.
 * @typedef {{element: HTMLElement, show: (items: any[]) => void, settle: () => void, refresh?: () => void,
 *   dispose: () => void}} Viewer
 */

/**
 * @param {{name: string, nodeType: string, outputKey: string, minHeight: number, size: [number, number],
 *   create: (node: any) => Viewer}} options
 */
export function registerViewer({ name, nodeType, outputKey, minHeight, size, create }) {
  /** @type {Map<any, Viewer>} */
  const live = new Map();

  /** @param {any} node @param {any} output */
  function show(node, output) {
    const items = output?.[outputKey];
    if (!Array.isArray(items) || !items.length) return false;
    live.get(node)?.show(items);
    return true;
  }

  app.registerExtension({
    name: `qusr.${name}`,

    nodeCreated(node) {
      if (node.comfyClass !== nodeType) return;
      const viewer = create(node);
      live.set(node, viewer);
      // widget-expands: Nodes 2.0 gives the widget the node's free height
      const root = make("div", { class: "qusr-widget widget-expands", style: `min-height:${minHeight}px` });
      root.append(styleElement(), viewer.element);
      // Nodes 2.0 drags the node on any move with the button down, measured from the last press that it saw.
      for (const type of ["pointerdown", "pointermove"]) {
        root.addEventListener(type, (event) => {
          if (/** @type {PointerEvent} */ (event).buttons & 1) event.stopPropagation();
        });
      }
      const widget = node.addDOMWidget(name, `qusr_${name}`, root, { serialize: false, getMinHeight: () => minHeight });
      widget.serialize = false;
      node.setSize([Math.max(node.size[0], size[0]), Math.max(node.size[1], size[1])]);

      for (const setting of node.widgets ?? []) {
        if (setting === widget) continue;
        const { callback } = setting;
        setting.callback = function () {
          const result = callback?.apply(this, arguments);
          viewer.refresh?.();
          return result;
        };
      }
      root.addEventListener("pointerenter", () => viewer.refresh?.());

      const { onExecuted, onRemoved, onConfigure } = node;
      node.onExecuted = function (/** @type {any} */ output) {
        onExecuted?.apply(this, arguments);
        if (!show(this, output)) return;
        rememberOutput(this, { [outputKey]: output[outputKey] });
        keepForTab(this, output);
      };
      node.onConfigure = function () {
        onConfigure?.apply(this, arguments);
        viewer.settle();
      };
      node.onRemoved = function () {
        onRemoved?.apply(this, arguments);
        live.delete(this);
        viewer.dispose();
      };
    },

    loadedGraphNode(node) {
      if (!live.has(node)) return;
      live.get(node)?.settle();
      const key = locator(node);
      if (show(node, app.nodeOutputs?.[key])) return;
      const output = isUndoing() ? lastOutput(node) : earlierOutput(node);
      if (show(node, output) && app.nodeOutputs) app.nodeOutputs[key] = output;
    },

    // A tab that is opened again does not run its nodes; ComfyUI hands their outputs back here.
    onNodeOutputsUpdated(outputs) {
      for (const node of live.keys()) show(node, outputs[locator(node)]);
    },
  });
}

/**
 * Note a result for the workflow's tab, as ComfyUI does for restoring it: but ComfyUI drops what arrives before its queue
 * request is answered, and a run out of the cache can be that fast.
 * @param {any} node @param {any} output
 */
function keepForTab(node, output) {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker) tracker.nodeOutputs = { ...tracker.nodeOutputs, [locator(node)]: output };
}

/** Whether the graph is loaded because of undo or redo: ComfyUI then forgets the nodes' outputs, and we do not. */
function isUndoing() {
  return app.extensionManager?.workflow?.activeWorkflow?.changeTracker?._restoringState === true;
}

/** Tell ComfyUI that a choice saved in node.properties changed, so that it can be undone and is kept on reload. */
export function choiceChanged() {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}

/** Keys of a focused widget stay in it; ComfyUI's shortcuts must not act at the same time. @param {HTMLElement} element @param {(event: KeyboardEvent) => boolean} handle */
export function onKey(element, handle) {
  element.addEventListener("keydown", (event) => {
    if (!handle(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}
