// The part of ComfyUI's front end that the widgets use; served there as /scripts/app.js.
export interface Extension {
  name: string;
  beforeRegisterNodeDef?(nodeType: any, definition: any): void;
  refreshComboInNodes?(definitions: Record<string, any>): void;
  nodeCreated?(node: any): void;
  loadedGraphNode?(node: any): void;
  onNodeOutputsUpdated?(outputs: Record<string, any>): void;
  setup?(): void;
}

/** A workflow tab's undo history, and the node outputs that ComfyUI shows again when the tab is opened again. */
export interface ChangeTracker {
  checkState?(): void;
  _restoringState?: boolean;
  nodeOutputs?: Record<string, any>;
}

export const app: {
  registerExtension(extension: Extension): void;
  canvas: { processMouseWheel(event: WheelEvent): void };
  graph?: { nodes: any[] };
  rootGraph?: { getNodeById?(id: number): any };
  nodeOutputs?: Record<string, any>;
  extensionManager: {
    toast: { add(message: { severity: string; summary: string; detail: string; life: number }): void };
    workflow?: { activeWorkflow?: { changeTracker?: ChangeTracker } };
  };
};
