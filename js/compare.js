// QUSR Compare: the interactive comparer.
import { Comparer } from "./lib/comparer.js";
import { registerViewer } from "./lib/widget.js";

registerViewer({
  name: "comparer",
  nodeType: "QUSRCompare",
  outputKey: "qusr_compare",
  minHeight: 260,
  size: [400, 420],
  create: (node) => new Comparer(node),
});
