"""Every command of FROM_ZERO.md, in its order, on a stand-in of a few pictures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from qusr_train.cli.main import main
from qusr_train.images.write import to_picture
from tests.support.chat_server import ChatServer
from tests.support.diffusers_model import golden_folder

PAGE = Path(__file__).resolve().parents[3] / "qusr_train" / "training" / "FROM_ZERO.md"
TINY = (
    "--lpips_weight 0 --patch 64 --steps 2 --batch_size 1 --accumulation 1 --workers 0 --precision no "
    "--uem_channels 4 --tracker none --sample_every 0 --no-gradient_checkpointing"
)
SMALL = {
    "--count 100000": "--count 4",
    "--patch 512": "--patch 64",
    "--workers 16": "--workers 0",
    "--validate_every 1000": "--validate_every 1",
    "--lpips_backbone vgg16-397923af.pth": TINY,
}
"""What the stand-in changes: numbers, and LPIPS' weights, which no registry carries."""

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


def _commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


def test_every_command_runs(tmp_path: Path, texture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = to_picture(texture[0])
    for place, size in (
        ("photos/lsdir/a", 96),
        ("photos/ffhq/b", 80),
        ("validation/hr/c", 96),
        ("validation/lr/c", 24),
    ):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((size, size), Image.Resampling.BICUBIC).save(path)
    golden_folder(tmp_path / "stable-diffusion-2-1-base")
    with ChatServer() as one, ChatServer() as other:
        changes = {**SMALL, "http://127.0.0.1:8000/v1": one.address, "http://127.0.0.1:8001/v1": other.address}
        for command in _commands():
            for written, small in changes.items():
                command = command.replace(written, small)
            words = shlex.split(command)
            assert words[:3] == ["python", "-m", "qusr_train"], command
            assert main(words[3:]) == 0, command
    for made in ("sheet.png", "pairs/captions.jsonl", "runs/qusr/README.md", "results/c.png", "results.md"):
        assert (tmp_path / made).is_file(), made
    assert (tmp_path / "lora.safetensors").stat().st_size > 10_000
