"""The adversarial loss: a small network learns to tell restored pictures from targets, the model to mislead it.

Goodfellow et al. 2014 with the non-saturating (softplus) losses, on patches (Isola et al. 2017), with spectral
normalisation (Miyato et al. 2018). It also sees the input, so that detail must belong to what is there, and the
detail of the picture by itself, amplified: a faint grid or a missing grain is small beside the picture's contrast, and
without this the verdict stays a coin toss while zips and grids grow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .config import TrainConfig
from .step import Autocast

CHANNELS = (40, 64, 96, 96)
DETAIL, AROUND = 6.0, 5
"""Detail is what differs from the mean of AROUND x AROUND pixels, times DETAIL."""


class PatchDiscriminator(nn.Module):
    """One number per 8 x 8 pixels: above 0 for a target, below 0 for a restored picture."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = CHANNELS
        self.conv_in = nn.Conv2d(3 * 3 * 4, a, 3, padding=1)  # not normalised, as the last: they set the scale
        self.blocks = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv2d(a, b, 4, 2, 1), nn.Conv2d(b, b, 3, 1, 1), nn.Conv2d(b, c, 4, 2, 1), nn.Conv2d(c, d, 3, 1, 1),
            )
        )  # fmt: skip
        self.conv_out = nn.Conv2d(d, 1, 3, 1, 1)

    def forward(self, x: Tensor, x_lq: Tensor) -> Tensor:
        """Judge pictures beside their inputs.

        Args:
            x: (B, 3, H, W) in [-1, 1], H and W multiples of 8.
            x_lq: like x, the enlarged input.

        Returns:
            (B, 1, H / 8, W / 8), unbounded.
        """
        edge = AROUND // 2
        mean = F.avg_pool2d(F.pad(x, (edge,) * 4, mode="replicate"), AROUND, stride=1)
        h = F.pixel_unshuffle(torch.cat([x, DETAIL * (x - mean), x_lq], 1), 2).contiguous(
            memory_format=torch.channels_last
        )
        h = F.leaky_relu(self.conv_in(h), 0.2)
        for block in self.blocks:
            h = F.leaky_relu(block(h), 0.2)
        return self.conv_out(h)


class Adversary:
    """The discriminator with its own optimiser, and the two losses."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.discriminator_learning_rate, betas=(0.5, 0.99), weight_decay=0.0
        )

    def to(self, device: torch.device) -> None:
        self.discriminator.to(device)

    def weight(self, step: int) -> float:
        """Weight of the adversarial loss at a step: 0 until `adversarial_start`, then a linear ramp."""
        config = self.config
        risen = (step + 1 - config.adversarial_start) / max(1, config.adversarial_ramp)
        return config.adversarial_weight * min(1.0, max(0.0, risen))

    def loss(self, x_hq: Tensor, x_lq: Tensor, autocast: Autocast) -> Tensor:
        """The model's loss: softplus(-D(x_hq)). The discriminator gets no gradient from it."""
        self.discriminator.requires_grad_(False)
        with autocast():
            judged = self.discriminator(x_hq, x_lq)
        self.discriminator.requires_grad_(True)
        return F.softplus(-judged.float()).mean()

    def learn(self, x_hq: Tensor, x_gt: Tensor, x_lq: Tensor, autocast: Autocast) -> dict[str, Tensor]:
        """Add the gradient of the discriminator's own loss, softplus(-D(x_gt)) + softplus(D(x_hq)).

        Returns:
            Figures: its loss, and the mean verdicts on targets and restored pictures.
        """
        with autocast():
            judged = self.discriminator(torch.cat([x_gt, x_hq.detach()]), torch.cat([x_lq, x_lq]))
        real, fake = judged.float().chunk(2)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        (loss / self.config.accumulation).backward()
        return {
            "discriminator_loss": loss.detach(),
            "verdict_target": real.detach().mean(),
            "verdict_restored": fake.detach().mean(),
        }

    def update(self, factor: float, accelerator: Any) -> None:
        """Take the optimiser's step with the gradients of all processes.

        Args:
            factor: share of the peak learning rate.
            accelerator: accelerate's `Accelerator`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.discriminator_learning_rate * factor
        if accelerator.num_processes > 1:
            for parameter in self.discriminator.parameters():
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs: weights, the spectral norms' vectors and the optimiser."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
