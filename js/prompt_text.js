// Shows on the node what the prompt nodes report: the prompt that was made, the tokens read and cut.
import { app } from "../../scripts/app.js";

const NODES = ["QUSRQualityPrompt", "QUSRQwenPrompt", "QUSRServerPrompt", "QUSREncodePrompt"];

app.registerExtension({
  name: "qusr.promptText",

  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const box = document.createElement("textarea");
    box.readOnly = true;
    box.setAttribute("aria-label", "Report of the last run");
    box.placeholder = "Run the workflow to see the prompt here.";
    box.style.cssText =
      "width:100%;height:100%;min-height:60px;resize:none;box-sizing:border-box;border:0;border-radius:4px;" +
      "padding:6px;font-size:12px;background:var(--comfy-input-bg);color:var(--input-text)";
    const widget = node.addDOMWidget("report", "qusr_report", box, { serialize: false, getMinHeight: () => 60 });
    widget.serialize = false;

    const onExecuted = node.onExecuted;
    node.onExecuted = function (/** @type {any} */ output) {
      onExecuted?.apply(this, arguments);
      box.value = output?.text?.[0] ?? "";
    };
  },
});
