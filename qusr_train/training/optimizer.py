"""The optimiser of a run and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from .config import TrainConfig


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, the peak for `hold` of the run, then the schedule."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    first = config.warmup + config.hold * max(0, config.steps - config.warmup)
    progress = max(0.0, (step - first) / max(1.0, config.steps - first))
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(model: Any, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; a group's `share` multiplies its learning rate."""
    uem = {id(p) for p in model.uem.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in uem], "share": config.uem_learning_rate},
        {"params": [p for p in trained if id(p) not in uem], "share": 1.0},
    ]
    options: dict[str, Any] = {
        "lr": config.learning_rate, "betas": (0.9, config.beta2), "weight_decay": config.weight_decay,
    }  # fmt: skip
    chosen = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(chosen, **options)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(chosen, **options)
