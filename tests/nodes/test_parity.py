"""The reference implementation's own tensors, reproduced step by step through the nodes.

`make parity` writes the measured differences to tests/golden/PARITY.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import golden

SCALE = 0.18215
CODSR_SHARE = 0.8942234775865594  # alpha_bar of Stable Diffusion at t = 100
TOLERANCE = 1e-4
MEASURED: list[tuple[str, str, str, str]] = []


class GivenNoise:
    """A NOISE with the very draws that the reference used."""

    seed = 0

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def generate_noise(self, _: Any) -> Tensor:
        return self.noise


def difference(ours: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def case() -> str:
    """Name and parameters of the running test."""
    return os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0].removeprefix("test_")


def agree(name: str, ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    """Check one tensor and remember its difference for the table."""
    measured = difference(ours, reference)
    MEASURED.append((case(), name, f"{measured:.1e}", f"{tolerance:.0e}"))
    assert measured < tolerance


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Writes what was measured to the file named by QUSR_PARITY, if there is one."""
    MEASURED.clear()
    with torch.inference_mode():  # as ComfyUI runs every node
        yield
    if file := os.environ.get("QUSR_PARITY"):
        rows = "".join(f"| {' | '.join(row)} |\n" for row in MEASURED)
        head = "| case (tests/nodes/test_parity.py) | tensor | largest difference | allowed |\n|---|---|---|---|\n"
        Path(file).write_text(
            "# Parity with the reference implementation, measured\n\nMade by `make parity`. Relative to the tensor's "
            f"largest value, float32 on CPU, torch {torch.__version__}.\n\n{head}{rows}",
            encoding="utf-8",
        )


@pytest.fixture(scope="module")
def sd() -> SimpleNamespace:
    return SimpleNamespace(model=golden.golden_unet(), clip=golden.golden_clip(), vae=golden.golden_vae())


@pytest.fixture
def load(node: Any, sd: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """QUSRLoader with a file of tests/golden/checkpoints, found through ComfyUI's own folders."""
    import folder_paths

    folder = str(golden.GOLDEN / "checkpoints")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([folder], {".pkl", ".safetensors"}))
    folder_paths.filename_list_cache.pop("qusr", None)

    def run(name: str, strength: float = 1.0, pixel: float = 1.0, semantic: float = 1.0) -> SimpleNamespace:
        assert f"{name}.pkl" in folder_paths.get_filename_list("qusr")
        outputs = node.QUSRLoader.execute(sd.model, f"{name}.pkl", strength, pixel, semantic, sd.vae).args
        return SimpleNamespace(model=outputs[0], uem=outputs[1], vae=outputs[2])

    return run


def restore(node: Any, model: Any, conditioning: Any, z: Tensor, noise: Tensor, **options: Any) -> Tensor:
    settings = {"strength": 1.0, "tile": 0, "overlap": 0, **options}
    latent = {"samples": z / SCALE}
    return node.QUSROneStepDenoise.execute(model, conditioning, latent, GivenNoise(noise), **settings).args[0][
        "samples"
    ]


@pytest.mark.parametrize(
    ("name", "tiling"),
    [("qusr_128", {}), ("qusr_192x128_tiled", {"tile": 16, "overlap": 8})],
)
def test_qusr_step_by_step(
    node: Any, pack: Any, load: Any, sd: SimpleNamespace, name: str, tiling: dict[str, int]
) -> None:
    """Every tensor of the chain; where the reference drew noise, its draw is given."""
    run, image = golden.run(name), golden.picture(f"{name}_lq")
    loaded = load("qusr")
    nodes, noise_module = pack.nodes, pack.qusr_train.model.noise

    conditioning, used, cut, _ = node.QUSREncodePrompt.execute([sd.clip], [run.about["prompt"]]).args
    assert cut == 0
    if hasattr(run, "input_ids"):
        assert used == (run.input_ids != 0).sum() - 2  # without start and end; 0 pads
    if hasattr(run, "prompt_embeds"):
        agree("prompt_embeds", conditioning[0][0], run.prompt_embeds)

    mean = node.QUSREncode.execute(image, sd.vae, 0, "exact").args[0]["samples"]
    agree("vae_x_lq_mean", mean, run.vae_x_lq_mean)
    as_node = nodes.native.host.check_image(image).rgb.movedim(1, -1)  # the memory layout that QUSREncode hands over
    z_lq = nodes.native.vae.encode(sd.vae, as_node, posterior_noise=run.noise_posterior_x_lq) * SCALE
    agree("vae_x_lq_latent", z_lq, run.vae_x_lq_latent)

    uncertainty = node.QUSRUncertainty.execute(image, loaded.uem).args[0]
    agree("U", uncertainty.map, run.U)
    adaptive = nodes.noise.adaptive_noise(
        sd.vae, uncertainty, 0, uncertainty.noise, posterior_noise=run.noise_posterior_U
    )
    agree("sigma", adaptive.sigma, run.sigma)
    injected = noise_module.injected_noise(run.noise_gauss, adaptive.sigma, adaptive.p)
    z_g = z_lq + injected
    agree("z_g", z_g, run.z_g)

    z_hq = restore(node, loaded.model, conditioning, z_lq, injected, **tiling) * SCALE
    agree("eps", z_g - z_hq, run.eps)
    agree("z_hq", z_hq, run.z_hq)

    def decoded(latent: Tensor) -> Tensor:
        return node.QUSRDecode.execute({"samples": latent / SCALE}, sd.vae, 0, "exact").args[0].movedim(-1, 1) * 2 - 1

    agree("decoded_raw", decoded(run.z_hq), run.decoded_raw.clamp(-1, 1))
    agree("decoded_raw, end to end", decoded(z_hq), run.decoded_raw.clamp(-1, 1))


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_colour_fixed_image_within_one_grey_level(node: Any, fix: str) -> None:
    run = golden.run("qusr_128")
    # The reference fixes the colours of the 8-bit picture, which it made by truncation.
    image = golden.picture("qusr_128_nofix")
    assert (image.movedim(-1, 1) * 2 - 1 - run.decoded_raw.clamp(-1, 1)).abs().max() < 2.01 / 255
    ours = node.QUSRColorFix.execute(image, golden.picture("qusr_128_lq"), fix).args[0]
    levels = (ours - golden.picture(f"qusr_128_{fix}")).abs().max().item() * 255
    MEASURED.append((case(), "image, grey levels", f"{levels:.2f}", "1"))
    assert levels <= 1 + 1e-3


def test_without_uncertainty(node: Any, load: Any, sd: SimpleNamespace) -> None:
    """The reference's switch `enable_uncertainty = False`: no noise at all."""
    run, prompt = golden.run("qusr_128_no_uncertainty"), golden.run("qusr_128").about["prompt"]
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [prompt]).args[0]
    z_lq = golden.run("qusr_128").vae_x_lq_mean * SCALE
    std = golden.run("qusr_128").vae_x_lq_std * SCALE
    z_lq = z_lq + std * run.noise_posterior_x_lq
    z_hq = restore(node, load("qusr").model, conditioning, z_lq, torch.zeros_like(z_lq)) * SCALE
    agree("z_hq", z_hq, run.z_hq)


@pytest.mark.parametrize(
    ("name", "strengths"),
    [("pisa_sr_128_default", {}), ("pisa_sr_128_pix0.8_sem1.3", {"pixel": 0.8, "semantic": 1.3})],
)
def test_pisa_sr(node: Any, load: Any, sd: SimpleNamespace, name: str, strengths: dict[str, float]) -> None:
    run = golden.run(name)
    loaded = load("pisa_sr", **strengths)
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [""]).args[0]
    latent = restore(node, loaded.model, conditioning, run.z_lq, torch.zeros_like(run.z_lq))
    agree("eps", run.z_lq - latent * SCALE, run.eps)
    agree("z_hq", latent * SCALE, run.z_hq)
    image = node.QUSRDecode.execute({"samples": latent}, loaded.vae, 0, "exact").args[0]
    agree("image", image.movedim(-1, 1) * 2 - 1, run.image)
    assert loaded.uem.patcher is None


def test_pisa_sr_two_passes_at_full_strength_equal_the_one_pass(node: Any, load: Any, sd: SimpleNamespace) -> None:
    run = golden.run("pisa_sr_128_default")
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [""]).args[0]
    nearly = restore(node, load("pisa_sr", semantic=1 + 1e-7).model, conditioning, run.z_lq, torch.zeros_like(run.z_lq))
    agree("z_hq", nearly * SCALE, run.z_hq)
    # and the model is as it was afterwards
    again = restore(node, load("pisa_sr").model, conditioning, run.z_lq, torch.zeros_like(run.z_lq))
    agree("z_hq", again * SCALE, run.z_hq)


def test_osediff(node: Any, load: Any, sd: SimpleNamespace) -> None:
    run = golden.run("osediff_128")
    loaded = load("osediff")
    conditioning = node.QUSREncodePrompt.execute([sd.clip], ["a photo"]).args[0]
    agree("prompt_embeds", conditioning[0][0], run.prompt_embeds)
    mean = node.QUSREncode.execute(golden.picture("qusr_128_lq"), loaded.vae, 0, "exact").args[0]["samples"]
    agree("vae_mean", mean, run.vae_mean)
    plain = node.QUSREncode.execute(golden.picture("qusr_128_lq"), sd.vae, 0, "exact").args[0]["samples"]
    assert difference(plain, run.vae_mean) > 0.1, "the loader changed the VAE that it was given"
    latent = restore(node, loaded.model, conditioning, run.z_lq, torch.zeros_like(run.z_lq))
    agree("vae_decode_input", latent, run.vae_decode_input)
    image = node.QUSRDecode.execute({"samples": latent}, loaded.vae, 0, "exact").args[0]
    agree("decoded_raw", image.movedim(-1, 1) * 2 - 1, run.decoded_raw.clamp(-1, 1))


def _codsr_guided(node: Any, sd: SimpleNamespace, loaded: SimpleNamespace, name: str) -> Any:
    """Conditioning with the photo's scale and shift, compared on the way."""
    run, image = golden.run(name), golden.picture(f"{name.replace('codsr', 'qusr')}_lq")
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [run.about["prompt"]]).args[0]
    guided = node.QUSRPhotoGuide.execute(loaded.model, conditioning, image).args[0]
    scale, shift = guided[0][1]["model_conds"]["qusr_photo_guide"].cond.chunk(2, dim=1)
    gain = math.sqrt((1 - CODSR_SHARE) / CODSR_SHARE)  # the reference divides by it
    agree("sft_scale", scale * gain, run.sft_scale)
    agree("sft_shift", shift * gain, run.sft_shift)
    return guided


def _codsr_noise(node: Any, pack: Any, sd: SimpleNamespace, loaded: SimpleNamespace, name: str) -> Tensor:
    """The reference's draw times our Sobel weight, which is compared on the way."""
    run, image = golden.run(name), golden.picture(f"{name.replace('codsr', 'qusr')}_lq")
    uncertainty = node.QUSRUncertainty.execute(image, loaded.uem).args[0]
    adaptive = pack.nodes.noise.adaptive_noise(sd.vae, uncertainty, 0, uncertainty.noise)
    agree("sobel_weight", adaptive.sigma, run.sobel_weight.expand_as(adaptive.sigma))
    return pack.qusr_train.model.noise.injected_noise(run.noise_gauss, adaptive.sigma, adaptive.p)


def test_codsr(node: Any, pack: Any, load: Any, sd: SimpleNamespace) -> None:
    """Every tensor of CODSR's chain, from the photo to the decoded picture."""
    run, image = golden.run("codsr_128"), golden.picture("qusr_128_lq")
    loaded = load("codsr")
    conditioning = _codsr_guided(node, sd, loaded, "codsr_128")
    agree("prompt_embeds", conditioning[0][0], run.prompt_embeds)
    mean = node.QUSREncode.execute(image, loaded.vae, 0, "exact").args[0]["samples"]
    agree("vae_x_lq_mean", mean, run.vae_x_lq_mean)
    as_node = pack.nodes.native.host.check_image(image).rgb.movedim(1, -1)
    z_lq = pack.nodes.native.vae.encode(loaded.vae, as_node, posterior_noise=run.noise_posterior_x_lq) * SCALE
    agree("z_lq", z_lq, run.z_lq)
    magnitude = pack.qusr_train.model.sobel.sobel_magnitude(as_node.movedim(-1, 1))
    agree("sobel_gradient", magnitude, run.sobel_gradient)
    noise = _codsr_noise(node, pack, sd, loaded, "codsr_128")
    sampling = loaded.model.get_model_object("model_sampling")
    z_t = sampling.noise_scaling(torch.ones(1), noise, z_lq)
    agree("z_t", z_t, run.z_t)
    z_hq = restore(node, loaded.model, conditioning, z_lq, noise) * SCALE
    agree("eps", (z_t - math.sqrt(CODSR_SHARE) * z_hq) / math.sqrt(1 - CODSR_SHARE), run.eps)
    agree("z_hq", z_hq, run.z_hq)
    decoded = node.QUSRDecode.execute({"samples": z_hq / SCALE}, loaded.vae, 0, "exact").args[0]
    agree("decoded_raw", decoded.movedim(-1, 1) * 2 - 1, run.decoded_raw.clamp(-1, 1))


def test_codsr_tiled(node: Any, pack: Any, load: Any, sd: SimpleNamespace) -> None:
    """Inside: the reference divides by at least 1e-6 even where its weights are smaller, which spoils the border."""
    run = golden.run("codsr_192x128_tiled")
    loaded = load("codsr")
    conditioning = _codsr_guided(node, sd, loaded, "codsr_192x128_tiled")
    noise = _codsr_noise(node, pack, sd, loaded, "codsr_192x128_tiled")
    z_hq = restore(node, loaded.model, conditioning, run.z_lq, noise, tile=16, overlap=8) * SCALE
    ours, reference = z_hq[..., 4:12, :], run.z_hq[..., 4:12, :]
    agree("z_hq, first tile alone", ours[..., 4:8], reference[..., 4:8])
    agree("z_hq, second tile alone", ours[..., 16:20], reference[..., 16:20])
    agree("z_hq, overlap", ours[..., 8:16], reference[..., 8:16])


@pytest.mark.parametrize("name", ["qusr", "pisa_sr", "osediff", "codsr"])
def test_stock_sampler_gives_the_same(node: Any, core: Any, load: Any, sd: SimpleNamespace, name: str) -> None:
    model = load(name, semantic=1.2 if name == "pisa_sr" else 1.0).model
    run = golden.run("qusr_128")
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [run.about["prompt"]]).args[0]
    conditioning = node.QUSRPhotoGuide.execute(model, conditioning, golden.picture("qusr_128_lq")).args[0]
    noise = 0.1 * run.noise_gauss
    ours = restore(node, model, conditioning, run.vae_x_lq_latent, noise)
    guider = core.sampling.BasicGuider.execute(model, conditioning).args[0]
    sampler = core.sampling.KSamplerSelect.execute("euler").args[0]
    sigmas = core.sampling.BasicScheduler.execute(model, "simple", 1, 1.0).args[0]
    latent = {"samples": run.vae_x_lq_latent / SCALE}
    stock = core.sampling.SamplerCustomAdvanced.execute(GivenNoise(noise), guider, sampler, sigmas, latent).args[0]
    assert difference(stock["samples"], ours) < 1e-6


def test_strength_scales_the_lora(node: Any, load: Any, sd: SimpleNamespace) -> None:
    run = golden.run("qusr_128")
    conditioning = node.QUSREncodePrompt.execute([sd.clip], [""]).args[0]
    zero = torch.zeros_like(run.z_g)
    none, half, full = (
        restore(node, load("qusr", strength=s).model, conditioning, run.vae_x_lq_latent, zero) for s in (0.0, 0.5, 1.0)
    )
    assert 0 < (half - none).abs().mean() < (full - none).abs().mean()
