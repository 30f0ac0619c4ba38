"""What builds or drives ComfyUI's own objects for the nodes; no node is here."""
