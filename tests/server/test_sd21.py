"""The SD 2.1 templates through a real ComfyUI, with the golden model at SD 2.1's own widths in place of SD 2.1."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from qusr_train.checkpoints.reference import CODSR_TIMESTEP
from qusr_train.images.check import enlarge
from qusr_train.images.color import fix_color
from qusr_train.model.schedule import alpha_bar
from tests.support import examples, golden, wide
from tests.support.comfyui import Server, base_directory
from tests.support.diffusers_chain import SCALE, Chain
from tests.support.workflow import to_prompt

ROOT = Path(__file__).resolve().parents[2]
PHOTO, LARGE, VIDEO = "qusr-test-photo.png", "qusr-test-golden.png", "qusr-test-video.mp4"
FRAMES = ("qusr-test-1.png", "qusr-test-2.png", "qusr-test-3.png")
FILES = (
    f"models/checkpoints/{wide.CHECKPOINT}", "models/qusr/qusr.pkl", "models/qusr/pisa_sr.pkl",
    "models/qusr/codsr.pkl", "models/qusr/qusr.safetensors", "models/vae_approx/taesd_encoder.safetensors",
    "models/vae_approx/taesd_decoder.safetensors", f"input/{PHOTO}", f"input/{LARGE}", f"input/{VIDEO}",
    "input/qusr.latent", "input/pisa_sr.latent", "input/codsr.latent",
    *(f"input/{name}" for name in FRAMES),
)  # fmt: skip
GREY = 1 / 255
TRUNCATED = 1.05 * GREY  # ComfyUI cuts decimals off when it writes a picture


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    return {name: Chain.load(name) for name in ("qusr", "pisa_sr")}


@pytest.fixture(scope="module")
def taesd() -> Any:
    """A light decoder with random weights, the last ones large enough for pictures with contrast."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    light = AutoencoderTiny().eval().requires_grad_(False)
    light.decoder.layers[-1].weight.mul_(20)
    light.decoder.layers[-1].bias.fill_(0.5)
    return light


def _small() -> np.ndarray:
    photo = Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB")
    return np.asarray(photo)[60:76, 60:92]


def _frames() -> list[np.ndarray]:
    """Three pictures."""
    return [np.ascontiguousarray(np.roll(_small(), shift, axis=1)) for shift in range(3)]


def _write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=8)
        stream.height, stream.width = _small().shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in _frames():
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        clip.mux(stream.encode())


@pytest.fixture(scope="module", autouse=True)
def files(server: Server, taesd: Any) -> Iterator[None]:
    """Everything the templates name, in the server's folders; removed afterwards."""
    base = base_directory()
    for name in FILES:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "tests.support.wide", str(base / "models")], cwd=ROOT, check=True)
    # diffusers' decoder begins without the layer that limits its input.
    for side, shift in (("encoder", 0), ("decoder", 1)):
        layers = getattr(taesd, side).layers.state_dict()
        renamed = {f"{int(key.split('.')[0]) + shift}.{key.split('.', 1)[1]}": value for key, value in layers.items()}
        save_file(renamed, base / "models" / "vae_approx" / f"taesd_{side}.safetensors")
    Image.fromarray(_small()).save(base / "input" / PHOTO)
    Image.open(golden.GOLDEN / "runs" / "qusr_128_lq.png").convert("RGB").save(base / "input" / LARGE)
    _write_video(base / "input" / VIDEO)
    for name, frame in zip(FRAMES, _frames(), strict=True):
        Image.fromarray(frame).save(base / "input" / name)
    draws = {"qusr": golden.run("qusr_128").z_g, "pisa_sr": golden.run("pisa_sr_128_default").z_lq}
    # The sampler multiplies CODSR's latent by sqrt(a) when it adds the noise, which is in z_t already.
    draws["codsr"] = golden.run("codsr_128").z_t / math.sqrt(alpha_bar(CODSR_TIMESTEP))
    for name, z in draws.items():
        content = {"latent_tensor": z / SCALE, "latent_format_version_0": torch.tensor([])}
        save_file(content, base / "input" / f"{name}.latent")
    yield
    for name in FILES:
        (base / name).unlink(missing_ok=True)


class Template:
    """An example workflow as the server's prompt."""

    def __init__(self, name: str, server: Server) -> None:
        self.prompt = to_prompt(examples.example(name), server.get("/object_info"))
        self.server = server

    def only(self, class_type: str) -> dict[str, Any]:
        """The inputs of the one node of a type."""
        (node,) = (node for node in self.prompt.values() if node["class_type"] == class_type)
        return node["inputs"]

    def take(self, photo: str, scale: float, text: str) -> None:
        """Another photo and prompt in place of the template's."""
        self.prompt["photo"] = {"class_type": "LoadImage", "inputs": {"image": photo}}
        self.only("QUSREnlarge").update(image=["photo", 0], scale=scale)
        self.only("QUSREncodePrompt")["prompt"] = text

    def take_latent(self, name: str) -> None:
        """The reference's own latent with its own draws, in place of the encoded photo and the noise."""
        self.prompt["latent"] = {"class_type": "LoadLatent", "inputs": {"latent": f"{name}.latent"}}
        self.prompt["noise"] = {"class_type": "DisableNoise", "inputs": {}}
        self.only("QUSROneStepDenoise").update(latent=["latent", 0], noise=["noise", 0])

    def run(self) -> Tensor:
        """The saved picture, (1, 3, H, W) in [0, 1]."""
        saver = next(key for key, node in self.prompt.items() if node["class_type"] == "SaveImage")
        self.prompt[saver] = {"class_type": "PreviewImage", "inputs": {"images": self.only("SaveImage")["images"]}}
        return _picture(self.server, self.server.run(self.prompt)[saver]["images"][0])


def _picture(server: Server, item: dict[str, str]) -> Tensor:
    """A picture that the server made, (1, 3, H, W) in [0, 1]."""
    array = np.asarray(Image.open(io.BytesIO(server.image(item))).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array / 255).movedim(-1, 0)[None]


def _bicubic(photo: np.ndarray, scale: int) -> Tensor:
    rgb = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255).movedim(-1, 0)[None]
    return enlarge(rgb, rgb.shape[-2] * scale, rgb.shape[-1] * scale).clamp(0, 1)


def _prompt() -> tuple[str, Tensor]:
    """The golden prompt and its embedding."""
    run = golden.run("qusr_128")
    return run.about["prompt"], run.prompt_embeds


def _golden(picture: Tensor) -> Tensor:
    """What the colour fix of the templates makes of a golden picture, (1, 3, H, W) in [-1, 1]."""
    large = _bicubic(np.asarray(Image.open(golden.GOLDEN / "runs" / "qusr_128_lq.png").convert("RGB")), 1)
    return fix_color(picture.clamp(-1, 1) / 2 + 0.5, large, "adain").clamp(0, 1)


def test_the_checkpoint_is_taken_for_sd21_base(server: Server) -> None:
    template = Template(examples.SD21, server)
    template.take(PHOTO, 1.0, "")
    template.run()
    log = server.log.read_text(errors="replace")
    assert "model_type EPS" in log
    assert not [line for line in log.splitlines() if "missing" in line and ("unet" in line or "VAE keys" in line)]


@pytest.mark.parametrize("checkpoint", ["qusr.safetensors", "qusr.pkl"])
def test_sd21_gives_the_golden_picture(server: Server, checkpoint: str) -> None:
    template = Template(examples.SD21, server)
    template.take(LARGE, 1.0, _prompt()[0])
    template.take_latent("qusr")
    template.only("QUSRLoader")["checkpoint"] = checkpoint
    result = template.run()
    assert (result - _golden(golden.run("qusr_128").decoded_raw)).abs().max() < TRUNCATED
    # The reference truncates to 8 bit before and after its colour fix.
    assert (result.movedim(1, -1) - golden.picture("qusr_128_adain")).abs().max() < 2.6 * GREY


def test_sd21_as_it_is_equals_the_chain_in_diffusers(server: Server, chains: dict[str, Chain]) -> None:
    text, embeds = _prompt()
    template = Template(examples.SD21, server)
    template.take(PHOTO, 4.0, text)
    template.only("QUSRAdaptiveNoise")["seed"] = 11
    large = _bicubic(_small(), 4)
    expected = fix_color(chains["qusr"].decode(chains["qusr"].qusr(large, embeds, 11)), large, "adain")
    assert (template.run() - expected.clamp(0, 1)).abs().max() < TRUNCATED


def test_light_decoder_as_it_is_equals_the_chain_in_diffusers(
    server: Server, chains: dict[str, Chain], taesd: Any
) -> None:
    text, embeds = _prompt()
    template = Template(examples.LIGHT_DECODER, server)
    template.take(PHOTO, 4.0, text)
    large = _bicubic(_small(), 4)
    with torch.no_grad():
        light = taesd.decode(chains["qusr"].qusr(large, embeds, 0)).sample.clamp(-1, 1) / 2 + 0.5
    assert light.std() > 0.05, "the decoder shows something"
    assert (template.run() - fix_color(light, large, "adain").clamp(0, 1)).abs().max() < TRUNCATED


def test_pisa_sr_gives_the_golden_picture(server: Server) -> None:
    template = Template(examples.PISA_SR, server)
    template.take(LARGE, 1.0, "")
    template.take_latent("pisa_sr")
    template.only("QUSRLoader").update(pixel=1.0, semantic=1.0)
    assert (template.run() - _golden(golden.run("pisa_sr_128_default").image)).abs().max() < TRUNCATED


def test_pisa_sr_as_it_is_equals_the_chain_in_diffusers(server: Server, chains: dict[str, Chain]) -> None:
    template = Template(examples.PISA_SR, server)
    template.take(PHOTO, 4.0, "")
    settings = template.only("QUSRLoader")
    chain, large = chains["pisa_sr"], _bicubic(_small(), 4)
    embeds = golden.run("pisa_sr_128_default").prompt_embeds
    expected = chain.decode(chain.pisa_sr(large, embeds, settings["pixel"], settings["semantic"]))
    assert (template.run() - fix_color(expected, large, "adain").clamp(0, 1)).abs().max() < TRUNCATED


def test_codsr_gives_the_golden_picture(server: Server) -> None:
    """Two sets of LoRA, the photo's guide, and the step of a diffused latent, through the server."""
    run = golden.run("codsr_128")
    template = Template(examples.CODSR, server)
    template.take(LARGE, 1.0, run.about["prompt"])
    template.take_latent("codsr")
    assert (template.run() - _golden(run.decoded_raw)).abs().max() < TRUNCATED


def test_codsr_as_it_is_runs_and_follows_its_seed_and_its_guide(server: Server) -> None:
    def result(seed: int, strength: float = 1.0) -> Tensor:
        template = Template(examples.CODSR, server)
        template.take(PHOTO, 4.0, "osprey")
        template.only("QUSRAdaptiveNoise")["seed"] = seed
        template.only("QUSRLoader")["strength"] = strength
        return template.run()

    first = result(1)
    assert first.shape == (1, 3, 64, 128)
    assert (first - result(2)).abs().max() > GREY
    assert (first - result(1, 0.5)).abs().max() > GREY


@pytest.mark.parametrize(
    ("checkpoint", "settings", "size"),
    [
        ("qusr.pkl", {"factor": 1.0}, (32, 16)),
        ("qusr.pkl", {"factor": 2.0}, (64, 32)),
        ("qusr.pkl", {"factor": 3.0}, (96, 48)),
        ("qusr.pkl", {"factor": 4.0}, (128, 64)),
        ("qusr.pkl", {"size": "longest side", "longest_side": 104}, (104, 52)),
        ("codsr.pkl", {"factor": 2.0}, (64, 32)),
        ("pisa_sr.pkl", {"factor": 2.0}, (64, 32)),
    ],
)
def test_upscale_with_sd21_gives_any_size(
    server: Server, checkpoint: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    """QUSR Upscale with the loader's sockets, CODSR's photo guide included."""
    prompt: dict[str, Any] = {
        "base": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": wide.CHECKPOINT}},
        "load": {
            "class_type": "QUSRLoader",
            "inputs": {
                "model": ["base", 0], "checkpoint": checkpoint, "strength": 1.0, "pixel": 1.0, "semantic": 1.0,
                "vae": ["base", 2],
            },
        },
        "photo": {"class_type": "LoadImage", "inputs": {"image": PHOTO}},
        "upscale": {
            "class_type": "QUSRUpscale",
            "inputs": {
                "image": ["photo", 0], "preset": "dial", "seed": 1, "prompt": "a photo", "strength": 1.0,
                "noise_strength": 1.0, "color_fix": "wavelet", "model": ["load", 0], "clip": ["base", 1],
                "vae": ["load", 2], "uem": ["load", 1], **settings,
            },
        },
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["upscale", 0]}},
    }  # fmt: skip
    picture = _picture(server, server.run(prompt)["show"]["images"][0])
    assert (picture.shape[-1], picture.shape[-2]) == size
    assert picture.std() > 0.02


def test_video_equals_the_chain_in_diffusers(server: Server, chains: dict[str, Chain]) -> None:
    """The frames come from pictures, since decoders of videos differ by a grey level; the rest from the clip."""
    import av

    text, embeds = _prompt()
    template = Template(examples.VIDEO, server)
    template.only("LoadVideo")["file"] = VIDEO
    template.only("QUSREncodePrompt")["prompt"] = text
    for name in FRAMES:
        template.prompt[name] = {"class_type": "LoadImage", "inputs": {"image": name}}
    pairs = {"two": ([FRAMES[0], 0], [FRAMES[1], 0]), "three": (["two", 0], [FRAMES[2], 0])}
    for name, (first, second) in pairs.items():
        template.prompt[name] = {"class_type": "ImageBatch", "inputs": {"image1": first, "image2": second}}
    template.only("QUSREnlarge")["image"] = ["three", 0]
    frames = template.only("CreateVideo")["images"]
    template.prompt["frames"] = {"class_type": "PreviewImage", "inputs": {"images": frames}}
    outputs = server.run(template.prompt)
    saver = next(key for key, node in template.prompt.items() if node["class_type"] == "SaveVideo")
    with av.open(io.BytesIO(server.image(outputs[saver]["images"][0]))) as clip:
        made = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        assert clip.streams.video[0].average_rate == 8
    assert [frame.shape for frame in made] == [(64, 128, 3)] * 3
    chain, shown = chains["qusr"], [_picture(server, one) for one in outputs["frames"]["images"]]
    for frame, result in zip(_frames(), shown, strict=True):
        large = _bicubic(frame, 4)
        expected = fix_color(chain.decode(chain.qusr(large, embeds, 0)), large, "adain").clamp(0, 1)
        assert (result - expected).abs().max() < TRUNCATED
