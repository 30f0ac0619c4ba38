"""The extension in a running ComfyUI, through its HTTP API only."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import examples
from tests.support.comfyui import PACK_NAME, PromptFailed, Server, base_directory
from tests.support.workflow import to_prompt

ROOT = Path(__file__).resolve().parents[2]


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64)


def test_there_are_example_workflows() -> None:
    assert sorted(path.stem for path in examples.FOLDER.glob("*.json")) == list(examples.ALL)


def test_all_nodes_are_registered(object_info: dict[str, Any]) -> None:
    ours = {name for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK_NAME}"}
    expected = {
        "QUSRNanoLoader", "QUSRQualityPrompt", "QUSREncodePrompt", "QUSRUncertainty", "QUSRUncertaintyView",
        "QUSRAdaptiveNoise", "QUSROneStepDenoise", "QUSRColorFix", "QUSRCompare", "QUSRUpscale", "QUSREnlarge",
        "QUSRExamplePhoto", "QUSRDownload", "QUSRTrain", "QUSRLossPlot", "QUSRLoader", "QUSREncode", "QUSRDecode",
        "QUSRQwenPrompt", "QUSRServerPrompt", "QUSRPhotoTiles", "QUSRPhotoGuide",
    }  # fmt: skip
    assert ours == expected


@pytest.mark.parametrize("word", ["super resolution", "upscale", "denoise", "seedvr", "caption", "before after"])
def test_nodes_are_found_by_the_words_people_search_for(object_info: dict[str, Any], word: str) -> None:
    if "search_aliases" not in object_info["SaveImage"]:
        pytest.skip("this ComfyUI's nodes are searched by their names only")
    assert [name for name, info in object_info.items() if name.startswith("QUSR")
            and any(word in alias for alias in info["search_aliases"])]  # fmt: skip


def test_rarely_used_inputs_are_advanced(object_info: dict[str, Any]) -> None:
    inputs = {
        **object_info["QUSRAdaptiveNoise"]["input"]["required"],
        **object_info["QUSRAdaptiveNoise"]["input"]["optional"],
    }
    marked = {name for name, (_, options) in inputs.items() if options.get("advanced")}
    assert marked == {"variant", "parameters", "tile", "tiles"}


def test_chinese_names_are_served(server: Server) -> None:
    names = server.get("/i18n")["zh"]["nodeDefs"]
    assert names["QUSRCompare"]["display_name"] == "QUSR \u6bd4\u8f83"


def test_chinese_help_is_served_where_the_front_end_asks_for_it(server: Server) -> None:
    page = server.get_bytes(f"/extensions/{PACK_NAME}/docs/QUSRUpscale/zh.md").decode()
    assert page.startswith("# QUSR \u653e\u5927")


def test_loading_the_pack_logs_no_error(server: Server) -> None:
    log = server.log.read_text(errors="replace")
    assert f"custom_nodes/{PACK_NAME}" in log
    assert "IMPORT FAILED" not in log.split("Import times for custom nodes")[1].split("\n\n")[0]


def test_import_loads_nothing_heavy() -> None:
    """What ComfyUI did not load already, the pack must not load at start."""
    code = (
        "import sys, importlib.util, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.support.comfyui import comfyui_path\n"
        "sys.path.insert(0, str(comfyui_path()))\n"
        "import comfy.cli_args; comfy.cli_args.args.cpu = True\n"
        "import nodes, comfy_api.latest, comfy.samplers\n"
        "before = set(sys.modules)\n"
        f"root = pathlib.Path({str(ROOT)!r})\n"
        "spec = importlib.util.spec_from_file_location('qusr_pack', root / '__init__.py', "
        "submodule_search_locations=[str(root)])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['qusr_pack'] = module\n"
        "spec.loader.exec_module(module)\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - {'qusr_pack'}\n"
        "print(sorted(new & {'diffusers', 'peft', 'accelerate', 'transformers', 'tokenizers', 'kornia', 'scipy'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", examples.BUNDLED)
def test_example_workflow_runs_as_it_is(server: Server, object_info: dict[str, Any], name: str) -> None:
    prompt = to_prompt(examples.example(name), object_info)
    outputs = server.run(prompt)
    by_type = {prompt[node_id]["class_type"]: output for node_id, output in outputs.items()}
    result = picture(server.image(by_type["SaveImage"]["images"][0]))
    assert result.shape == (768, 768, 3)
    small = Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB")
    bicubic = np.asarray(small.resize((768, 768), Image.Resampling.BICUBIC), dtype=np.float64)
    difference = np.abs(result - bicubic).mean()
    assert 0.5 < difference < 12, "restored, but still the same photo"
    assert name == examples.APP or by_type["QUSRUncertaintyView"]["qusr_uncertainty"]
    assert by_type["QUSRCompare"]["qusr_compare"]


def test_the_example_workflows_give_the_same_picture(server: Server, object_info: dict[str, Any]) -> None:
    pictures = []
    for name in examples.BUNDLED:
        prompt = to_prompt(examples.example(name), object_info)
        saver = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
        prompt[saver]["class_type"] = "PreviewImage"
        prompt[saver]["inputs"].pop("filename_prefix")
        pictures.append(picture(server.image(server.run(prompt)[saver]["images"][0])))
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])


@pytest.mark.parametrize("name", examples.ALL)
def test_every_workflow_has_a_thumbnail_and_is_in_the_template_browser(server: Server, name: str) -> None:
    assert name in server.get("/workflow_templates")[PACK_NAME]
    thumbnail = server.get_bytes("/api/workflow_templates/" + urllib.parse.quote(f"{PACK_NAME}/{name}.jpg"))
    assert Image.open(io.BytesIO(thumbnail)).size[0] >= 256


@pytest.fixture(scope="module")
def named_files(server: Server) -> None:
    """Empty files under the names of the SD 2.1 examples, and a real clip: the server then lists them."""
    import av

    models = base_directory() / "models"
    for name in (
        "checkpoints/v2-1_512-ema-pruned.safetensors", "qusr/qusr.safetensors", "qusr/pisa_sr.pkl",
        "qusr/codsr.pkl", "vae_approx/taesd_encoder.safetensors", "vae_approx/taesd_decoder.safetensors",
    ):  # fmt: skip
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()
    with av.open(str(base_directory() / "input" / "video.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        small = np.asarray(Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB"))
        for shift in range(3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(small[60:84, 60 + shift : 92 + shift]), "rgb24")
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())


def example(name: str, server: Server) -> dict[str, Any]:
    return to_prompt(examples.example(name), server.get("/object_info"))


@pytest.mark.parametrize("name", examples.WITH_WEIGHTS)
def test_sd_example_validates_and_names_the_damaged_weights(server: Server, name: str, named_files: None) -> None:
    """The server accepts the graph as it is; with empty files in place of the weights it stops at the loader."""
    prompt = example(name, server)
    with pytest.raises(PromptFailed) as caught:
        server.run(prompt)
    failed = caught.value.details[-1]
    assert failed["node_type"] in ("CheckpointLoaderSimple", "VAELoader")


def test_sd_example_without_its_weights_is_refused_by_name(server: Server) -> None:
    prompt = example(examples.SD21, server)
    key, loader = next((key, node) for key, node in prompt.items() if node["class_type"] == "QUSRLoader")
    loader["inputs"]["checkpoint"] = "not-there.safetensors"
    # The quality prompt needs no weights and runs; what hangs on the loader is refused before anything is loaded.
    errors = server.post("/prompt", {"prompt": prompt})["node_errors"]
    assert "not-there.safetensors is not there" in json.dumps(errors[key])


def test_video_example_runs_with_the_bundled_model(server: Server, named_files: None) -> None:
    """The frames' whole way, nano in place of SD 2.1: as many frames come out, four times larger."""
    import av

    prompt = example(examples.VIDEO, server)
    loader = next(key for key, node in prompt.items() if node["class_type"] == "QUSRLoader")
    checkpoint = next(key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple")
    instead = {(loader, 0): 0, (loader, 1): 3, (loader, 2): 2, (checkpoint, 1): 1, (checkpoint, 2): 2}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and tuple(value) in instead:
                node["inputs"][name] = [loader, instead[tuple(value)]]
    prompt[loader] = {"class_type": "QUSRNanoLoader", "inputs": {"lora_strength": 1.0}}
    del prompt[checkpoint]
    saver = next(key for key, node in prompt.items() if node["class_type"] == "SaveVideo")
    item = server.run(prompt)[saver]["images"][0]
    with av.open(io.BytesIO(server.image(item))) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        assert clip.streams.video[0].average_rate == 8
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 3


def test_user_picture_with_alpha_keeps_it(server: Server) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(base_directory() / "input" / "qusr-test-rgba.png")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "qusr-test-rgba.png"}},
        "2": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["1", 1]}},
        "3": {
            "class_type": "QUSRUpscale",
            "inputs": {
                "image": ["2", 0], "preset": "crisp", "seed": 1, "prompt": "", "strength": 1.0, "noise_strength": 1.0,
                "color_fix": "adain",
            },
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }  # fmt: skip
    shown = server.run(prompt)["4"]["images"][0]
    result = Image.open(io.BytesIO(server.image(shown)))
    assert (result.mode, result.size) == ("RGBA", (120, 80))


def test_download_node_stands_alone_and_looks_first(server: Server) -> None:
    prompt = {"1": {"class_type": "QUSRDownload", "inputs": {"model": "osediff", "download": False}}}
    for _ in range(2):  # not cached: files come and go
        (text,) = server.run(prompt)["1"]["text"]
        assert "osediff.pkl: missing" in text
        assert str(Path("models", "qusr", "osediff.pkl")) in text


def test_an_error_reaches_the_user_with_the_remedy(server: Server) -> None:
    prompt = {
        "1": {"class_type": "QUSRExamplePhoto", "inputs": {}},
        "2": {"class_type": "QUSRNanoLoader", "inputs": {"lora_strength": 1.0}},
        "3": {
            "class_type": "QUSRUpscale",
            "inputs": {
                "image": ["1", 0], "preset": "balanced", "seed": 1, "prompt": "", "strength": 1.0,
                "noise_strength": 1.0, "color_fix": "none", "model": ["2", 0],
            },
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }  # fmt: skip
    with pytest.raises(PromptFailed, match="connect model, clip, vae and uem of the same loader"):
        server.run(prompt)


def test_interrupt_stops_a_long_run(server: Server) -> None:
    """A batch that would take minutes ends when the user presses Cancel, and the server goes on."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 128, "height": 128, "batch_size": 600, "color": 8421504}},
        "2": {
            "class_type": "QUSRUpscale",
            "inputs": {
                "image": ["1", 0], "preset": "balanced", "seed": 1, "prompt": "soft", "strength": 1.0,
                "noise_strength": 1.0, "color_fix": "none",
            },
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }  # fmt: skip
    queued = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    deadline = time.monotonic() + 60
    while not server.get("/queue")["queue_running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    server.post("/interrupt", {})
    while queued not in server.get("/history") and time.monotonic() < deadline:
        time.sleep(0.1)
    messages = [m[0] for m in server.get(f"/history/{queued}")[queued]["status"]["messages"]]
    assert "execution_interrupted" in messages
    assert server.get("/queue")["queue_running"] == []


def test_the_subgraph_is_offered_as_a_blueprint(server: Server) -> None:
    offered = server.get("/global_subgraphs")
    number, entry = next((n, e) for n, e in offered.items() if e["name"] == "QUSR upscale")
    assert entry["info"]["node_pack"].startswith("custom_nodes.qusr")
    blueprint = json.loads(server.get(f"/global_subgraphs/{number}")["data"])
    (inside,) = blueprint["definitions"]["subgraphs"]
    assert inside["category"] == "Image generation and editing/Upscale"
    assert inside["description"] == blueprint["extra"]["BlueprintDescription"]
    assert "super resolution" in blueprint["extra"]["BlueprintSearchAliases"]
    example = examples.example(examples.SUBGRAPH)
    assert blueprint["definitions"] == example["definitions"], "the example's subgraph changed; copy it to subgraphs/"
    assert [node["type"] for node in blueprint["nodes"]] == [example["definitions"]["subgraphs"][0]["id"]]
