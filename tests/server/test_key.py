"""The user's key is in no picture, workflow, history or log, whatever the caption server answers."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import pytest
from PIL import Image

from tests.server.conftest import KEY
from tests.support.chat_server import ChatServer, Reply
from tests.support.comfyui import PromptFailed, Server, base_directory


def _graph(address: str, model: str) -> dict[str, Any]:
    asked = {"image": ["1", 0], "base_url": address, "model": model, "instruction": "", "max_words": 60, "seed": 0,
             "key_variable": "QUSR_API_KEY", "timeout": 20.0}  # fmt: skip
    return {
        "1": {"class_type": "QUSRExamplePhoto", "inputs": {}},
        "2": {"class_type": "QUSRServerPrompt", "inputs": asked},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "key-test"}},
    }


def test_the_key_is_saved_nowhere(server: Server) -> None:
    model = f"test-{uuid.uuid4().hex}"  # one that has no caption in the cache
    with ChatServer() as chat:
        text = f"A dark photo. Authorization: Bearer {KEY}"
        chat.script = [
            Reply(json.dumps({"choices": [{"message": {"content": text}}]}).encode()),
            Reply(json.dumps({"error": {"message": f"no access with {KEY}"}}).encode(), 401, reason=f"Not {KEY}"),
        ]
        graph = _graph(chat.address, model)
        workflow = {"nodes": [{"type": name["class_type"], "inputs": name["inputs"]} for name in graph.values()]}
        shown = server.run(graph, workflow=workflow)
        with pytest.raises(PromptFailed, match="refused access") as caught:
            server.run(_graph(chat.address, f"{model}-2"), workflow=workflow)
        assert chat.asked[0].headers["Authorization"] == f"Bearer {KEY}", "the server had the key, and could echo it"
    picture = server.image(shown["3"]["images"][0])
    texts = Image.open(io.BytesIO(picture)).text  # type: ignore[attr-defined]
    assert "QUSRServerPrompt" in texts["workflow"]
    assert "[key]" in str(shown["2"])
    searched = {
        "picture": picture,
        "workflow and prompt in it": json.dumps(texts).encode(),
        "shown": json.dumps(shown).encode(),
        "error": str(caught.value).encode(),
        "history": server.get_bytes("/history"),
        "log": server.log.read_bytes(),
        "cache": b"".join(path.read_bytes() for path in (base_directory() / "user" / "qusr").glob("captions*")),
    }
    assert searched["cache"], "the caption was kept"
    assert [place for place, content in searched.items() if KEY.encode() in content] == []
