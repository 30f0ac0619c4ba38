"""`make serve`: open a ComfyUI that has this extension and its templates."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.comfyui import server_command


def main() -> int:
    """Run the server in the foreground until Ctrl-C."""
    port = int(os.environ.get("PORT", "8188"))
    print(
        f"ComfyUI opens at http://127.0.0.1:{port} - Workflow > Browse Templates > qusr. Stop with Ctrl-C.", flush=True
    )
    try:
        return subprocess.run(server_command(port), check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
