"""The networks and the formulas of QUSR: UEM, adaptive noise, LoRA, qusr-nano, SD 2.1-base, CLIP's prompt."""
