// Errors of our nodes as a toast that says what to do.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { explain } from "./lib/errors.js";

app.registerExtension({
  name: "qusr.messages",

  setup() {
    api.addEventListener("execution_error", (event) => {
      const { detail } = event;
      if (!detail?.node_type?.startsWith("QUSR")) return;
      const title = app.rootGraph?.getNodeById?.(Number(detail.node_id))?.title ?? detail.node_type;
      const { summary, remedy } = explain(title, detail.exception_type, detail.exception_message);
      app.extensionManager.toast.add({ severity: "error", summary, detail: remedy, life: 20000 });
    });
  },
});
