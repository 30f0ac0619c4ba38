"""The local Qwen captioner, with real tiny models of random weights: the true code path without a download."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.captions.captioner import CaptionError
from qusr_train.captions.instruction import INSTRUCTION
from qusr_train.captions.qwen import (
    MOST_PIXELS,
    KeptQwen,
    QwenCaptioner,
    QwenFolder,
    as_picture,
    choose_dtype,
    load_qwen,
)
from tests.support.tiny_qwen import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def captioner(folder: Path) -> QwenCaptioner:
    qwen = QwenFolder(folder)
    return QwenCaptioner(qwen, KeptQwen(qwen, CPU), max_words=8)


def _pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, height, 64, generator=generator) for height in (30, 64, 120)]


def describe(one: QwenCaptioner, images: list[Tensor]) -> list[str]:
    return [caption.text for caption in one.describe(images, lambda count: None)]


def test_each_picture_gets_its_own_words(captioner: QwenCaptioner) -> None:
    texts = describe(captioner, _pictures())
    assert len(set(texts)) == 3  # the picture is really seen
    assert all(0 < len(text.split()) <= 8 for text in texts)


def test_the_same_alone_and_in_a_batch(captioner: QwenCaptioner) -> None:
    together = describe(captioner, _pictures())
    assert [describe(captioner, [one])[0] for one in _pictures()] == together
    assert describe(dataclasses.replace(captioner, batch=2), _pictures()) == together


def test_the_instruction_is_read(captioner: QwenCaptioner) -> None:
    assert describe(dataclasses.replace(captioner, instruction="Hello"), _pictures()) != describe(
        captioner, _pictures()
    )


def test_chance_follows_the_seed_and_leaves_the_other_chance_alone(captioner: QwenCaptioner) -> None:
    warm = dataclasses.replace(captioner, temperature=1.0, seed=3)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    texts = describe(warm, _pictures())
    assert torch.equal(torch.rand(1), expected)
    assert describe(warm, _pictures()) == texts
    assert describe(warm, _pictures()[1:2]) == texts[1:2]
    assert describe(dataclasses.replace(warm, seed=4), _pictures()) != texts


def test_progress_may_stop_it_between_words(captioner: QwenCaptioner) -> None:
    class Cancelled(BaseException):
        pass

    calls: list[int] = []

    def cancel(count: int) -> None:
        calls.append(count)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        captioner.describe(_pictures(), cancel)
    assert calls == [0, 0, 0]


def test_the_model_answers_as_transformers_does(folder: Path, captioner: QwenCaptioner) -> None:
    import transformers

    name = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[folder.name] + "ForConditionalGeneration"
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    picture = as_picture(_pictures()[1])
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture},
                {"type": "text", "text": f"{INSTRUCTION} Answer in at most 8 words."},
            ],
        }
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    raw = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    with captioner.open() as loaded:
        ours = captioner._answer(loaded, [_pictures()[1]], lambda count: None)
    assert ours == [raw]


def test_identity_follows_weights_and_words(captioner: QwenCaptioner, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / folder.name
    shutil.copytree(folder, other)
    same = dataclasses.replace(captioner, folder=QwenFolder(other))
    assert same.identity == captioner.identity
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": 1}))
    assert same.identity != captioner.identity
    assert dataclasses.replace(captioner, seed=9).identity == captioner.identity  # greedy: the seed does nothing
    assert dataclasses.replace(captioner, seed=9, temperature=1.0).identity != captioner.identity


def test_dtypes(folder: Path) -> None:
    model = load_qwen(QwenFolder(folder, dtype="bfloat16"), CPU).model
    assert next(model.parameters()).dtype == torch.bfloat16
    assert next(load_qwen(QwenFolder(folder), CPU).model.parameters()).dtype == torch.float32
    assert choose_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attentions_agree(captioner: QwenCaptioner, folder: Path, attention: str) -> None:
    qwen = QwenFolder(folder, attention=attention)
    assert describe(dataclasses.replace(captioner, open=KeptQwen(qwen, CPU)), _pictures()) == describe(
        captioner, _pictures()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash_attention_2"}, "Choose attention sdpa, or install flash-attn"),
        ({"attention": "magic"}, "attention: expected one of auto, sdpa"),
        ({"dtype": "int3"}, "dtype: expected one of auto"),
        ({"quantization": "4 bit"}, "quantization: 4 and 8 bit need a GPU"),
        ({"quantization": "1 bit"}, "quantization: expected one of none"),
    ],
)
def test_options_that_cannot_work_are_named(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(CaptionError, match=message):
        load_qwen(QwenFolder(folder, **options), CPU)


def test_folders_that_cannot_work_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=r"holds no readable config\.json"):
        load_qwen(QwenFolder(tmp_path), CPU)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CaptionError, match=r"expected Qwen2\.5-VL or Qwen3-VL, but .* is llama"):
        load_qwen(QwenFolder(tmp_path), CPU)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CaptionError, match="holds no weights"):
        load_qwen(QwenFolder(tmp_path), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CaptionError, match="cannot be loaded with transformers"):
        load_qwen(QwenFolder(tmp_path), CPU)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (64, 64)), ((28, 100), (56, 200)), ((1, 1), (56, 56)), ((3000, 2000), None)]
)
def test_picture_sizes(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    picture = as_picture(torch.rand(3, *size))
    if expected:
        assert (picture.height, picture.width) == expected
    else:
        assert 0.95 * MOST_PIXELS < picture.height * picture.width < 1.05 * MOST_PIXELS


def test_nothing_heavy_is_imported_before_use() -> None:
    script = (
        "import sys\n"
        "from qusr_train.captions import cache, captioner, measured, qwen, server\n"
        "heavy = {'transformers', 'accelerate', 'diffusers', 'peft', 'requests', 'huggingface_hub'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def _download(endpoint: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # The hub library reads its address when imported, hence a process of its own.
    script = (
        "import sys; from pathlib import Path; from qusr_train.captions.qwen_models import download_qwen\n"
        "download_qwen('Qwen/tiny', Path(sys.argv[1]), lambda done, total: print(done, total))"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip


def test_a_download_without_network_says_what_to_do(tmp_path: Path) -> None:
    result = _download("http://127.0.0.1:9", tmp_path / "model")
    assert "cannot be downloaded" in result.stderr
    assert "set HF_ENDPOINT to a mirror" in result.stderr
    assert not (tmp_path / "model" / "config.json").exists()


class _Hub(BaseHTTPRequestHandler):
    """A model hub with one repository; `folder` and `asked` are set by the test."""

    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[str]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        commit = "0" * 40
        if self.path.startswith("/api/models/Qwen/tiny"):
            siblings = [{"rfilename": file.name} for file in self.folder.iterdir()] + [{"rfilename": "README.md"}]
            return self._give(json.dumps({"id": "Qwen/tiny", "sha": commit, "siblings": siblings}).encode())
        file = self.folder / self.path.split("?")[0].rsplit("/", 1)[-1]
        if not file.is_file():
            return self.send_error(404)
        if self.command == "GET":
            self.asked.append(file.name)
        content = file.read_bytes()
        self._give(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def _give(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def test_a_download_from_a_hub_can_be_used_and_is_not_repeated(
    captioner: QwenCaptioner, folder: Path, tmp_path: Path
) -> None:
    _Hub.folder, _Hub.asked = folder, []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(2):
            result = _download(f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "tiny")
            assert result.returncode == 0, result.stderr
        server.shutdown()
    assert sorted(_Hub.asked) == sorted(file.name for file in folder.iterdir())
    assert _Hub.asked[-1] == "config.json"
    qwen = QwenFolder(tmp_path / "tiny")
    downloaded = dataclasses.replace(captioner, open=KeptQwen(qwen, CPU))
    assert describe(downloaded, _pictures()) == describe(captioner, _pictures())
