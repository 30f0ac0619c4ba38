"""The language model nodes: a real, tiny Qwen of random weights, and a real server on loopback."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.chat_server import ChatServer
from tests.support.tiny_qwen import build

QWEN = {
    "model": "tiny", "download": False, "instruction": "", "max_words": 6, "temperature": 0.0, "seed": 0,
    "dtype": "auto", "quantization": "none", "attention": "auto", "keep_loaded": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the kind LLM with a tiny Qwen in a subfolder, as a git clone leaves it."""
    folder = tmp_path_factory.mktemp("LLM")
    build(folder / "Qwen" / "tiny")
    return folder


@pytest.fixture(autouse=True)
def host(pack: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """ComfyUI with that folder and an empty user folder; nothing stays loaded."""
    import comfy.model_management as management
    import folder_paths

    for name in ("QUSR_API_KEY", "QUSR_API_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "LLM", ([str(models)], set()))
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    yield management
    management.interrupt_current_processing(False)
    pack.nodes.native.qwen.forget_qwen()


@pytest.fixture
def loads(pack: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for every time a model is read from disk."""
    seen: list[Any] = []
    real = pack.nodes.native.qwen.load_qwen

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(pack.nodes.native.qwen, "load_qwen", counted)
    return seen


@pytest.fixture
def qwen(node: Any) -> Any:
    def run(image: Tensor, **options: Any) -> list[str]:
        return node.QUSRQwenPrompt.execute(image, **{**QWEN, **options}).args[0]

    return run


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


@pytest.fixture
def ask(node: Any, chat: ChatServer) -> Any:
    def run(image: Tensor, **options: Any) -> list[str]:
        settings = {
            "base_url": chat.address, "model": "qwen", "instruction": "", "max_words": 60, "seed": 0,
            "key_variable": "QUSR_API_KEY", "timeout": 10.0, **options,
        }  # fmt: skip
        return node.QUSRServerPrompt.execute(image, **settings).args[0]

    return run


def in_memory() -> int:
    """How many Qwen models are alive in this process."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    gc.collect()
    return sum(type(thing) is Qwen2_5_VLForConditionalGeneration for thing in gc.get_objects())


def managed(pack: Any, management: Any) -> list[Any]:
    """The Qwen models ComfyUI knows of."""
    return [m for m in management.loaded_models() if isinstance(m, pack.nodes.native.qwen.WholePatcher)]


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 64, 60, 3, generator=torch.Generator().manual_seed(seed))


def test_qwen_sees_each_image_of_a_batch(qwen: Any) -> None:
    texts = qwen(pictures(3))
    assert len(set(texts)) == 3
    assert all(0 < len(text.split()) <= 6 for text in texts)


def test_qwen_in_the_node_answers_as_without_comfyui(qwen: Any, pack: Any, models: Path) -> None:
    module = pack.qusr_train.captions.qwen
    folder = module.QwenFolder(models / "Qwen" / "tiny")
    alone = module.QwenCaptioner(folder, module.KeptQwen(folder, torch.device("cpu")), max_words=6)
    image = pictures(2)
    expected = alone.describe(list(image.movedim(-1, 1)), lambda count: None)
    with torch.inference_mode():  # as ComfyUI runs its nodes
        assert qwen(image) == [caption.text for caption in expected]


def test_a_known_photo_loads_no_model_and_reads_no_weights(qwen: Any, loads: list[Any], models: Path) -> None:
    first = qwen(pictures(2))
    assert len(loads) == 1
    assert qwen(pictures(2)) == first
    assert qwen(pictures(2).flip(0)) == first[::-1]
    assert len(loads) == 1
    qwen(pictures(3))  # the third is new
    assert len(loads) == 2
    qwen(pictures(2), instruction="Which colours?")
    assert len(loads) == 3


def test_the_cache_lies_in_the_user_folder(qwen: Any, tmp_path: Path) -> None:
    (text,) = qwen(pictures(1))
    with sqlite3.connect(tmp_path / "user" / "qusr" / "captions.sqlite") as connection:
        assert connection.execute("SELECT text FROM captions").fetchall() == [(text,)]


def test_memory_is_given_back_at_once(qwen: Any, pack: Any, host: Any) -> None:
    qwen(pictures(1))
    assert managed(pack, host) == []
    assert in_memory() == 0


def test_a_kept_model_is_comfyuis_to_move_and_is_not_read_again(
    qwen: Any, pack: Any, host: Any, loads: list[Any], nano: Any
) -> None:
    first = qwen(pictures(1), keep_loaded=True)
    (patcher,) = managed(pack, host)
    assert patcher.loaded_size() == patcher.model_size() > 0
    host.free_memory(1e30, patcher.load_device)  # what another model's loading does when memory is short
    assert managed(pack, host) == []
    assert patcher.loaded_size() == 0
    assert in_memory() == 1
    host.load_models_gpu([nano.model])
    assert qwen(pictures(2, seed=5), keep_loaded=True) != first
    assert managed(pack, host) == [patcher]
    assert len(loads) == 1
    qwen(pictures(1, seed=6), keep_loaded=False)
    assert len(loads) == 1
    assert managed(pack, host) == []
    assert in_memory() == 0


def test_a_partial_unload_takes_the_whole_model(qwen: Any, pack: Any, host: Any) -> None:
    """Its layers cannot fetch weights while they run, so it may not be left half on the device."""
    qwen(pictures(1), keep_loaded=True)
    (patcher,) = managed(pack, host)
    entry = next(m for m in host.current_loaded_models if m.model is patcher)
    assert entry.model_unload(memory_to_free=1) is True
    assert patcher.loaded_size() == 0


def test_another_model_takes_the_place_of_a_kept_one(qwen: Any, loads: list[Any], models: Path) -> None:
    build(models / "tiny3", "qwen3_vl")
    qwen(pictures(1), keep_loaded=True)
    qwen(pictures(1), keep_loaded=True, model="tiny3")
    assert len(loads) == 2
    assert in_memory() == 0  # of the first kind


def test_weights_that_cannot_move_are_dropped_when_the_room_is_wanted(pack: Any, host: Any, models: Path) -> None:
    """4 and 8 bit weights: here full ones in their place, since those need a GPU."""
    module, cpu = pack.qusr_train.captions.qwen, torch.device("cpu")
    loaded = module.load_qwen(module.QwenFolder(models / "Qwen" / "tiny"), cpu)
    patcher = pack.nodes.native.qwen.manage(loaded, False, cpu, cpu)
    del loaded
    host.load_models_gpu([patcher], force_full_load=True)
    assert managed(pack, host) == [patcher]
    assert in_memory() == 1
    host.free_memory(1e30, cpu)
    assert in_memory() == 0
    assert managed(pack, host) == []


def test_cancel_stops_qwen_and_gives_the_memory_back(qwen: Any, pack: Any, host: Any) -> None:
    host.interrupt_current_processing(True)
    with pytest.raises(host.InterruptProcessingException):
        qwen(pictures(1))
    assert managed(pack, host) == []


def test_models_are_listed_and_missing_ones_named_before_the_run(node: Any, models: Path) -> None:
    (models / "not-qwen").mkdir(exist_ok=True)
    (models / "not-qwen" / "config.json").write_text('{"model_type": "llama"}')
    (models / "broken").mkdir(exist_ok=True)
    (models / "broken" / "config.json").write_text("[")
    schema = node.QUSRQwenPrompt.define_schema()
    options = next(i for i in schema.inputs if i.id == "model").options
    assert options[0] == "Qwen2.5-VL-7B-Instruct"
    assert "tiny" in options
    assert not {"not-qwen", "broken"} & set(options)
    check = node.QUSRQwenPrompt.validate_inputs
    assert check("tiny", False) is True
    assert check("Qwen2.5-VL-7B-Instruct", True) is True
    assert "switch download on" in check("Qwen2.5-VL-7B-Instruct", False)
    assert "is not in" in check("gone", True)


def test_each_prompt_of_the_server_reaches_its_image(ask: Any, node: Any, nano: Any) -> None:
    prompts = ask(torch.rand(1, 10, 20, 3))
    assert prompts == ["A picture of 20 x 10."]
    batch = torch.rand(3, 8, 9, 3)
    prompts = ask(batch)
    assert len(prompts) == 3
    conditioning = node.QUSREncodePrompt.execute([nano.clip], prompts).args[0]
    assert conditioning[0][0].shape[0] == 3


def test_a_known_photo_asks_no_server(ask: Any, chat: ChatServer) -> None:
    image = torch.rand(2, 10, 20, 3)
    first = ask(image)
    assert len(chat.asked) == 2
    assert ask(image) == first
    assert ask(image, base_url="http://127.0.0.1:9/v1") == first
    assert len(chat.asked) == 2
    ask(image, seed=1)
    assert len(chat.asked) == 4


def test_cancel_does_not_wait_for_a_silent_server(ask: Any, chat: ChatServer, host: Any) -> None:
    chat.script = ["slow"] * 9
    host.interrupt_current_processing(True)
    with pytest.raises(host.InterruptProcessingException):
        ask(torch.rand(1, 10, 20, 3), timeout=30.0)


def test_the_key_comes_from_the_named_variable_only(
    ask: Any, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUSR_API_KEY", "first")
    monkeypatch.setenv("QUSR_API_KEY_WORK", "second")
    monkeypatch.setenv("QUSR_API_HOSTS", "127.0.0.1")
    ask(torch.rand(1, 4, 4, 3))
    ask(torch.rand(1, 4, 4, 3), key_variable="QUSR_API_KEY_WORK")
    assert [asked.headers["Authorization"] for asked in chat.asked] == ["Bearer first", "Bearer second"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stolen")
    with pytest.raises(ValueError, match="key_variable: expected the name") as caught:
        ask(torch.rand(1, 4, 4, 3), key_variable="AWS_SECRET_ACCESS_KEY")
    assert "AWS" not in str(caught.value)  # it could be a key that was typed there
    assert len(chat.asked) == 2
    monkeypatch.setenv("QUSR_API_KEY", "two\nlines")
    with pytest.raises(ValueError, match="holds spaces or other characters") as caught:
        ask(torch.rand(1, 4, 4, 3))
    assert "lines" not in str(caught.value)


def test_server_errors_name_the_input(ask: Any, chat: ChatServer) -> None:
    with pytest.raises(ValueError, match="base_url: is empty"):
        ask(torch.rand(1, 4, 4, 3), base_url="")
    with pytest.raises(ValueError, match="model: is empty"):
        ask(torch.rand(1, 4, 4, 3), model=" ")
    with pytest.raises(ValueError, match=r"base_url: .*must not hold a password"):
        ask(torch.rand(1, 4, 4, 3), base_url="http://me:secret@127.0.0.1/v1")
    chat.script = ["bad_request"]
    with pytest.raises(ValueError, match=r"base_url: .*this model takes no images"):
        ask(torch.rand(1, 4, 4, 3))


def test_the_measured_node_gives_its_numbers_as_json(node: Any, photo: Tensor) -> None:
    prompts, numbers = node.QUSRQualityPrompt.execute(torch.cat([photo, photo * 0.2])).args
    assert len(prompts) == 2
    first, second = (json.loads(text) for text in numbers)
    assert first["exposure"] > 2 * second["exposure"]
