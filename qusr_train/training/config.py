"""Training configuration: one dataclass is the source of flags, help, defaults and validation."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from .field_types import check_types

Stage = Literal["base", "qusr", "sd21"]
Precision = Literal["no", "bf16", "fp16"]
CONFIGS = Path(__file__).parent / "configs"
"""Recipes that ship with the package; `train` takes them by name."""


@dataclass(frozen=True)
class TrainConfig:
    photos: str = ""
    """Folder of sharp photos, searched recursively, or give `pairs`."""
    out: str = ""
    """Folder for checkpoints and the finished model."""
    stage: Stage = "base"
    """`base` trains nano's UNet and text encoder; `qusr` adds LoRA, UEM and noise to one, `sd21` to SD 2.1-base."""
    init: str = ""
    """Model to start from: nano's .safetensors (optional for `base`), or the folder of SD 2.1-base (diffusers)."""
    init_checkpoint: str = ""
    """QUSR file to continue from: ours or the authors' .pkl (stage `sd21`)."""
    steps: int = 12000
    """Optimiser steps."""
    batch_size: int = 8
    """Patches per step and process."""
    accumulation: int = 1
    """Batches whose gradients are added up for one step."""
    patch: int = 192
    """Side of a high-resolution patch in pixels, a multiple of 16."""
    learning_rate: float = 8e-4
    """Peak learning rate (AdamW, warm-up, then the schedule)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine to 1 %, linear to 0, or constant."""
    warmup: int = 200
    """Steps of linear warm-up."""
    hold: float = 0.0
    """Share of the steps after the warm-up that stay at the peak before the schedule begins."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    beta2: float = 0.99
    """AdamW's second beta (the first is 0.9)."""
    uem_learning_rate: float = 3.0
    """The UEM's learning rate as a multiple of the others': it is new when the rest is fine-tuned."""
    ema: float = 0.999
    """Decay of the averaged weights that are exported; 0 exports the raw ones."""
    pixel_loss: Literal["charbonnier", "psnr"] = "charbonnier"
    """Smooth mean error, or PSNR itself: nearer to the truth on average and softer (nano)."""
    gradient_weight: float = 0.1
    """Weight of the gradient loss beside the pixel loss (nano)."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM beside the pixel loss (nano)."""
    balance_patches: bool = False
    """Weigh the pixel and gradient losses of easy patches up and of hard ones down, as PSNR does (nano)."""
    teacher_share: float = 0.0
    """Pixel losses aim at the target mixed with this share of PAIRS/teacher, a crisper upscaler's pictures (nano)."""
    steering_weight: float = 0.0
    """Weight of the order of the captioner's words: more blur named, more detail; more noise named, less (nano)."""
    feature_weight: float = 0.0
    """Weight of the distance in EfficientNet-Lite0's features (nano; needs its two packages)."""
    adversarial_weight: float = 0.0
    """Weight of the adversarial loss (nano): above 0, a discriminator is trained beside the model."""
    adversarial_start: int = 300
    """Steps that the discriminator learns alone, before the model sees its verdict."""
    adversarial_ramp: int = 500
    """Steps in which the adversarial weight then rises to its value."""
    adversarial_crop: int = 112
    """Side of the random crop that the discriminator judges, a multiple of 8."""
    discriminator_learning_rate: float = 2e-4
    """The discriminator's peak learning rate (its own AdamW, the same schedule)."""
    l2_weight: float = 0.5
    """Weight of the mean squared error (stage `sd21`, eq. 9)."""
    lpips_weight: float = 2.0
    """Weight of LPIPS (stage `sd21`, eq. 9)."""
    csd_weight: float = 2.0
    """Weight of classifier score distillation (stage `sd21`, eq. 9)."""
    uncertainty_weight: float = 0.3
    """Weight of the uncertainty loss (stages `qusr`, `sd21`): eq. 8, or Laplace's likelihood for an error map."""
    uncertainty_alpha: float = 0.03
    """Error (in [-1, 1] units) below which the UEM should report nothing (eq. 8)."""
    uncertainty_norm: Literal["abs", "sigmoid"] = "abs"
    """U_n of equation 8: |U| (nano) or sigmoid(U) (the reference)."""
    lpips_backbone: str = ""
    """File with torchvision's vgg16 weights for LPIPS; empty: look in torch's hub folder."""
    csd_guidance: float = 1.0
    """Classifier-free guidance of the frozen UNet in the CSD loss; the reference trains with 1."""
    csd_timesteps: tuple[float, ...] = (0.02, 0.98)
    """Range of the CSD loss's noise levels, as shares of the 1000 timesteps."""
    csd_prompt: str = "A high quality image with good details and clarity."
    """What the CSD loss pulls towards."""
    csd_negative_prompt: str = "low quality, blurry, noisy, distorted"
    """What the CSD loss pushes away from."""
    rank: int = 4
    """LoRA rank (stages `qusr`, `sd21`)."""
    continue_lora: bool = False
    """Go on with the LoRA of `init` instead of making it part of the base (stage `qusr`)."""
    uem_channels: int = 64
    """Hidden channels of the UEM (stage `sd21`; nano's are in its file)."""
    add_error_map: bool = False
    """Give an `init` with the paper's UEM a new one, whose map is an expected error (nano)."""
    add_film: bool = False
    """Let the prompt reach every block of an `init` without that (stage `base`); it changes nothing at first."""
    noise_variant: Literal["paper", "reference"] = "paper"
    """Which variant of equations 5-7 to train with (stages `qusr`, `sd21`)."""
    noise_k: float = 0.01
    """Noise gain k (stages `qusr`, `sd21`)."""
    noise_m: float = 0.0
    """Noise floor m, in [0, 1] (stages `qusr`, `sd21`)."""
    noise_p: float = 0.5
    """Noise strength p; 0 trains without uncertainty-guided noise (stages `qusr`, `sd21`)."""
    noise_grain: float = 0.0
    """Share of the injected noise that the finished model leaves in the picture as grain; no loss sees it (`qusr`)."""
    noise_gradient: bool = False
    """Let all losses reach the UEM through the noise, as the reference does (stage `sd21`; costs a VAE encode)."""
    photo_factors: tuple[float, ...] = (0.5, 0.33)
    """Sizes at which every photo is used; most photos are soft at full size, and the degradations add softness."""
    degradation: Literal["camera", "camera_mild", "camera_sharp", "second_order", "authors"] = "camera"
    """How photos become small: like a camera (`_mild`: less to undo, `_sharp`: crisper targets), or in two rounds."""
    degradation_ranges: str = ""
    """JSON file with ranges of the two rounds, instead of those that `degradation` names."""
    upright: bool = False
    """Flip crops, but do not turn them (stage `sd21`)."""
    more_photos: str = ""
    """Second folder of sharp photos (stage `sd21`)."""
    more_share: float = 0.5
    """Probability that a sample is of `more_photos`."""
    sharpen_targets: bool = False
    """Unsharp-mask the targets of second-order degradations."""
    pairs: str = ""
    """Folder with `lr` and `hr` inside (real pairs, or made by `degrade`) to train on instead of `photos`."""
    camera_pairs: str = ""
    """Folder with pairs of real cameras to mix in: CAMERA/hr, and CAMERA/lr2 at half the size (City100's layout)."""
    camera_share: float = 0.5
    """Probability of a pair from `camera_pairs`, where they are given."""
    prompts: Literal["measured", "files", "empty"] = "measured"
    """Quality prompts: measured on each input, from `captions.json` or `.jsonl` beside `lr` and `hr`, or none."""
    cache_latents: bool = False
    """Encode every pair once and keep it in OUT/cache (stage `sd21`; `pairs` exactly as large as `patch`)."""
    precision: Precision = "bf16"
    """Mixed precision: no, bf16 or fp16."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps the optimiser's state in 8 bits (needs bitsandbytes)."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time (stage `sd21`)."""
    shard: bool = False
    """Spread the frozen UNet over the processes (FSDP2) instead of a copy on each (stage `sd21`)."""
    compile: bool = False
    """Compile the models with torch.compile: slow start, faster steps."""
    workers: int = 1
    """Data loading processes."""
    seed: int = 1
    """Seed of weights, crops and degradations."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines in OUT/STAGE.metrics.jsonl and points in the tracker."""
    sample_every: int = 500
    """Steps between sample pictures in OUT/samples; 0 makes none."""
    validate: str = ""
    """Folder with `lr` and `hr` inside: whole pictures that are restored and compared while training."""
    validate_every: int = 500
    """Steps between validations."""
    validate_metrics: str = ""
    """Metrics beside PSNR and SSIM, of those that `evaluate` knows, with spaces between."""
    best: str = "psnr"
    """Metric that says which checkpoints are the best."""
    keep: int = 1
    """How many of the best checkpoints stay in OUT/best, beside the last one."""
    tracker: Literal["auto", "tensorboard", "wandb", "none"] = "auto"
    """Where curves and samples go beside OUT; auto is TensorBoard when it is installed."""

    def __post_init__(self) -> None:
        for name in ("photo_factors", "csd_timesteps"):  # JSON has lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_types(self)
        for name in (
            "warmup", "workers", "noise_k", "noise_p", "noise_grain", "gradient_weight", "ssim_weight",
            "uncertainty_weight", "l2_weight", "lpips_weight", "csd_weight", "csd_guidance", "weight_decay",
            "sample_every", "feature_weight", "adversarial_weight", "adversarial_start", "adversarial_ramp",
            "steering_weight",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"must be finite and at least 0, but got {getattr(self, name)}", field=name)
        for name in ("learning_rate", "uem_learning_rate", "discriminator_learning_rate", "uncertainty_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"must be finite and above 0, but got {getattr(self, name)}", field=name)
        if not self.photo_factors or not all(0 < factor <= 1 for factor in self.photo_factors):
            raise InputError(f"give at least one factor in (0, 1], but got {self.photo_factors}", field="photo_factors")
        for name in ("steps", "batch_size", "accumulation", "save_every", "log_every", "rank", "uem_channels",
                     "validate_every", "keep"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"must be at least 1, but got {getattr(self, name)}", field=name)
        if self.patch < 64 or self.patch % 16:
            raise InputError(f"must be a multiple of 16 and at least 64, but got {self.patch}", field="patch")
        if self.adversarial_crop < 32 or self.adversarial_crop % 8:
            raise InputError(
                f"must be a multiple of 8 and at least 32, but got {self.adversarial_crop}", field="adversarial_crop"
            )
        for name in ("ema", "beta2", "hold"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"must be in [0, 1), but got {getattr(self, name)}", field=name)
        for name in ("noise_m", "camera_share", "more_share", "teacher_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"must be in [0, 1], but got {getattr(self, name)}", field=name)
        low, high = (*self.csd_timesteps, 0.0, 0.0)[:2]
        if len(self.csd_timesteps) != 2 or not 0 <= low < high <= 1:
            raise InputError(f"expected 0 <= low < high <= 1, but got {self.csd_timesteps}", field="csd_timesteps")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.stage == "qusr" and not self.init:
            raise InputError("stage `qusr` fine-tunes a trained base, give its .safetensors file", field="init")
        if self.stage == "sd21" and not self.init:
            raise InputError("stage `sd21` fine-tunes SD 2.1-base, give its folder in diffusers form", field="init")
        if self.init_checkpoint and self.stage != "sd21":
            raise InputError("only for stage `sd21`; nano's stages continue from `init`", field="init_checkpoint")
        if self.photos and self.pairs:
            raise InputError("give either photos or pairs, but got both", field="pairs")
        if self.prompts == "files" and not self.pairs:
            raise InputError(
                "files need `pairs` with a captions.json; photos are degraded anew each time", field="prompts"
            )
        if self.camera_pairs and (self.prompts == "files" or self.cache_latents):
            raise InputError(
                "have no captions and no fixed crops: not with prompts `files` or `cache_latents`", field="camera_pairs"
            )
        if self.teacher_share and (self.stage == "sd21" or not self.pairs):
            raise InputError("only for nano, and with `pairs`, where the folder `teacher` lies", field="teacher_share")
        if self.cache_latents and (self.stage != "sd21" or not self.pairs):
            raise InputError("needs stage `sd21` and `pairs`, whose crops are fixed", field="cache_latents")
        if self.shard and (self.stage != "sd21" or self.compile):
            raise InputError("only for stage `sd21`, and not together with `compile`", field="shard")
        for name in (
            "feature_weight", "adversarial_weight", "steering_weight", "add_error_map", "add_film", "balance_patches",
        ):  # fmt: skip
            if getattr(self, name) and self.stage == "sd21":
                raise InputError("only for nano, stages `base` and `qusr`", field=name)
        if self.pixel_loss != "charbonnier" and self.stage == "sd21":
            raise InputError("only for nano, stages `base` and `qusr`", field="pixel_loss")
        if self.adversarial_weight and self.precision == "fp16":
            raise InputError("its two optimisers need precision `bf16` or `no`", field="adversarial_weight")
        if self.continue_lora and self.stage != "qusr":
            raise InputError("only for stage `qusr`", field="continue_lora")
        if self.noise_grain and self.stage != "qusr":
            raise InputError("only for stage `qusr`, whose latents are pixels", field="noise_grain")
        if self.add_film and self.stage == "qusr":
            raise InputError("only for stage `base`; stage `qusr` would not train it", field="add_film")
        if self.degradation.startswith("camera") and (self.sharpen_targets or self.degradation_ranges):
            field = "sharpen_targets" if self.sharpen_targets else "degradation_ranges"
            raise InputError("only for degradation `second_order` or `authors`", field=field)
        if (self.more_photos or self.upright) and self.stage != "sd21":
            raise InputError("only for stage `sd21`", field="more_photos" if self.more_photos else "upright")
        if self.more_photos and not self.photos:
            raise InputError("needs `photos` to be mixed with", field="more_photos")

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TrainConfig:
        """Build from parsed JSON or flags. Raises ValueError for unknown or missing keys."""
        if values.get("stage") == "sd21":  # the defaults of the fields are nano's
            values = {**load_config_file("sd21"), **values}
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        wanted = {"out"} if values.get("pairs") else {"photos", "out"}
        missing = sorted(wanted - set(values))
        if missing:
            raise InputError(f"missing setting {', '.join(missing)}")
        return cls(**values)


def load_config_file(name: str) -> dict[str, Any]:
    """Settings of a JSON file, or of a recipe that ships with the package.

    Raises:
        ValueError: missing, not JSON, or not an object.
    """
    shipped = CONFIGS / f"{name}.json"
    path = shipped if shipped.is_file() and not Path(name).exists() else Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"config file {name}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"config file {name}: expected a JSON object, but got {type(values).__name__}")
    return values
