"""A stranger's workflow reads and writes only where it may (issue 16, items 1 and 2)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.attacks.size import examples

MORE = {"photo_factors": [1.0], "workers": 0, "precision": "no", "log_every": 1, "sample_every": 0, "tracker": "none"}


@pytest.fixture
def photos(folders: Path) -> Path:
    where = folders / "input" / "photos"
    where.mkdir()
    Image.effect_noise((96, 96), 40).convert("RGB").save(where / "a.png")
    return where


def _train(node: Any, **changes: Any) -> Any:
    inputs = {"photos": "photos", "name": "mine", "model": "qusr-nano", "steps": 1, "batch_size": 1, "patch": 64,
              "seed": 1, "more": json.dumps(MORE), **changes}  # fmt: skip
    return node.QUSRTrain.execute(**inputs).args


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("setting", ["out", "photos", "init", "pairs", "prompts", "stage", "steps", "shard", "compile"])
def test_more_cannot_redirect_a_training(node: Any, folders: Path, photos: Path, setting: str) -> None:
    before = _tree(folders / "victim")
    with pytest.raises(ValueError, match=f"more: a workflow may not set {setting}"):
        _train(node, more=json.dumps({**MORE, setting: str(folders / "victim")}))
    assert _tree(folders / "victim") == before


def test_every_setting_is_allowed_or_refused_on_purpose(pack: Any) -> None:
    """A new setting of the training must be put on one of these lists."""
    refused = {
        "photos", "out", "stage", "init", "steps", "batch_size", "patch", "seed",  # the node's own
        "pairs", "teacher_share", "camera_pairs", "camera_share", "prompts", "cache_latents",  # folders and files
        "init_checkpoint",
        "more_photos", "more_share", "degradation_ranges", "validate", "validate_every",
        "validate_metrics", "best", "keep",
        "shard", "compile",  # of launches on many processes
    }  # fmt: skip
    known = {field.name for field in dataclasses.fields(pack.nodes.train.TrainConfig)}
    assert pack.nodes.train.MORE | refused == known
    assert not pack.nodes.train.MORE & refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"workers": 100_000}, "workers may be at most 16"),
        ({"tracker": "wandb"}, "tracker may be auto, tensorboard, none in a workflow"),
        ({"lpips_backbone": "../victim/secret.txt"}, "more: lpips_backbone: .* is outside of"),
        ({"lpips_backbone": "/etc/passwd"}, "more: lpips_backbone: .* is outside of"),
    ],
)
def test_settings_that_would_harm(node: Any, folders: Path, photos: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _train(node, more=json.dumps({**MORE, **more}))


def test_deep_json_is_refused(node: Any, folders: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match="more: expected a JSON object"):
        _train(node, more="[" * 100_000)


OUTSIDE = ["../victim", "photos/../../victim", "{root}/victim", "/", "link", "{root}/input/link", "photos/../link"]


@pytest.mark.parametrize("where", OUTSIDE)
def test_folders_outside_are_not_read(node: Any, folders: Path, photos: Path, where: str) -> None:
    for kind in ("input", "models", "output"):
        (folders / kind / "link").symlink_to(folders / "victim", target_is_directory=True)
        (folders / kind / "photos").mkdir(exist_ok=True)
    where = where.replace("{root}", str(folders))
    with pytest.raises(ValueError, match=r"photos: .* is outside of .*a workflow may not read elsewhere"):
        _train(node, photos=where)
    with pytest.raises(ValueError, match=r"base_folder: .* is outside of"):
        _train(node, model="SD 2.1-base", base_folder=where)
    (folders / "victim" / "x.metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"run: .* is outside of"):
        node.QUSRLossPlot.execute(where)
    assert node.QUSRLossPlot.fingerprint_inputs(where) != node.QUSRLossPlot.fingerprint_inputs(where)


def test_a_folder_that_the_user_listed_is_read(pack: Any, node: Any, folders: Path) -> None:
    places = pack.nodes.native.places
    places.folders_file().parent.mkdir(parents=True)
    places.folders_file().write_text(f"# mine\nrelative\n\n{folders / 'victim'}\n", encoding="utf-8")
    assert places.listed_folders() == [folders / "victim"]
    assert places.folder_to_read("photos", str(folders / "victim"), places.input_folders()) == folders / "victim"
    with pytest.raises(ValueError, match="is outside of"):
        places.folder_to_read("photos", str(folders / "output"), places.input_folders())
    places.folders_file().write_bytes(b"\xff\xfe\x00")
    assert places.listed_folders() == []


@pytest.mark.parametrize("given", ["", " ", "a\0b", "\ud800", "x" * 5000, "a/" * 2000, None, 5, ["input"], "missing"])
def test_odd_paths_are_named_errors(pack: Any, folders: Path, given: Any) -> None:
    places = pack.nodes.native.places
    with pytest.raises(ValueError, match=r"^photos: ") as caught:
        places.folder_to_read("photos", given, places.input_folders())
    assert len(str(caught.value)) < 1000


NAMES = [
    "../x",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "/abs",
    "nul",
    "CON",
    "com1.x",
    "a.",
    "",
    "x" * 101,
    "a\0",
    "ä",
    "a b",
    3,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_file_names(node: Any, folders: Path, photos: Path, name: Any) -> None:
    before = _tree(folders)
    with pytest.raises(ValueError, match="name: "):
        _train(node, name=name)
    assert _tree(folders) == before


def test_a_run_folder_that_leads_elsewhere_is_refused(node: Any, folders: Path, photos: Path) -> None:
    (folders / "output" / "qusr-training").mkdir()
    (folders / "output" / "qusr-training" / "mine").symlink_to(folders / "victim", target_is_directory=True)
    with pytest.raises(ValueError, match=r"name: .* is a link that leads out"):
        _train(node)
    assert list(_tree(folders / "victim")) == ["secret.txt"]


PATHS = st.lists(st.sampled_from(["..", ".", "/", "photos", "~", "\\", "victim", "\0"])).map("/".join)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), PATHS))
def test_no_text_leads_outside(pack: Any, folders: Path, text: str) -> None:
    """Whatever the text: a path inside, or a named error; and a name is a single folder's or file's."""
    places = pack.nodes.native.places
    (folders / "input" / "photos").mkdir(exist_ok=True)
    found = _or_named("photos", lambda: places.folder_to_read("photos", text, places.input_folders()))
    assert found is None or found.is_relative_to(folders / "input")
    run = _or_named("name", lambda: places.run_folder(text))
    assert run is None or run.parent == folders / "output" / "qusr-training"
    file = places.model_file(text)
    assert file is None or Path(file).is_relative_to(folders / "models")


def _or_named(name: str, look: Callable[[], Path]) -> Path | None:
    try:
        return look()
    except ValueError as error:
        if not str(error).startswith(f"{name}: "):
            raise
        return None


def test_a_model_is_never_replaced(pack: Any, folders: Path, tmp_path: Path) -> None:
    """The user's file of that name stays, the trained one gets a number; the same one again is not kept twice."""
    keep = pack.nodes.native.places.keep_model
    target = folders / "models" / "qusr" / "mine.safetensors"
    target.write_bytes(b"my own")
    for content, expected in ((b"one", "mine-2"), (b"one", "mine-2"), (b"two", "mine-3"), (b"my own", "mine")):
        (tmp_path / "finished").write_bytes(content)
        assert keep(tmp_path / "finished", "mine").stem == expected
    names = {f"mine{number}.safetensors": text for number, text in (("", b"my own"), ("-2", b"one"), ("-3", b"two"))}
    assert _tree(target.parent) == names


def test_two_runs_that_finish_together_keep_both_models(
    pack: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken between the look and the write: the other's file stays."""
    places = pack.nodes.native.places
    source = tmp_path / "finished.safetensors"
    source.write_bytes(b"second")
    target = folders / "models" / "qusr" / "mine.safetensors"
    link = os.link

    def late(here: Any, there: Any) -> None:
        if not target.exists():
            target.write_bytes(b"first")
        link(here, there)

    monkeypatch.setattr(os, "link", late)
    assert places.keep_model(source, "mine").name == "mine-2.safetensors"
    assert _tree(target.parent) == {"mine.safetensors": b"first", "mine-2.safetensors": b"second"}
