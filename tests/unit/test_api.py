"""The public API: what the README shows runs, everything listed is there, and asking for it is what imports it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qusr_train

ROOT = Path(__file__).resolve().parents[2]


def test_example_of_the_readme_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 10
    texture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    for folder, size in (("photos", (32, 24)), ("originals", (128, 96))):
        (tmp_path / folder).mkdir()
        Image.fromarray(texture).resize(size, Image.Resampling.BICUBIC).save(tmp_path / folder / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.fullmatch(r"restored \d+\.\d+\nbicubic \d+\.\d+\n", done.stdout)
    with Image.open(tmp_path / "restored" / "photo.png") as restored:
        assert restored.size == (128, 96)


@pytest.mark.parametrize("name", qusr_train.__all__)
def test_everything_listed_is_there(name: str) -> None:
    assert getattr(qusr_train, name) is not None
    assert name in dir(qusr_train)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'enhance'"):
        qusr_train.enhance  # noqa: B018


def test_version_is_the_projects() -> None:
    assert f'version = "{qusr_train.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys; import qusr_train; qusr_train.__version__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
