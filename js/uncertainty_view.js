// QUSR Uncertainty View: the interactive viewer.
import { UncertaintyViewer } from "./lib/uncertainty_viewer.js";
import { registerViewer } from "./lib/widget.js";

registerViewer({
  name: "uncertainty_viewer",
  nodeType: "QUSRUncertaintyView",
  outputKey: "qusr_uncertainty",
  minHeight: 320,
  size: [400, 620],
  create: (node) => new UncertaintyViewer(node),
});
