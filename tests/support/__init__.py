"""A real ComfyUI for the demo and the tests. Never part of the extension."""
