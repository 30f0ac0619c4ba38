"""Photos from Debian packages: the lists are sound, and JPEG XL becomes PNG. No network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qusr_train.data.debian_photos import PACKAGES, copy_photo, fetch


def test_no_photo_overwrites_another() -> None:
    names = [Path(photo).stem for package in PACKAGES for photo in package.photos]
    assert len(names) == len(set(names)) == 53
    assert len({(package.name, package.version) for package in PACKAGES}) == len(PACKAGES)


def test_missing_decoder_is_named_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"djxl is not installed.*apt-get install libjxl-tools"):
        fetch(tmp_path / "photos")
    assert not (tmp_path / "photos").exists()


@pytest.mark.skipif(not shutil.which("cjxl") or not shutil.which("djxl"), reason="libjxl-tools is not installed")
def test_jpeg_xl_becomes_the_same_picture_as_png(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "bird.png")
    subprocess.run(["cjxl", "-d", "0", tmp_path / "bird.png", tmp_path / "bird.jxl"], check=True, capture_output=True)
    (tmp_path / "photos").mkdir()
    target = copy_photo(tmp_path / "bird.jxl", tmp_path / "photos")
    assert target == tmp_path / "photos" / "bird.png"
    assert np.array_equal(np.asarray(Image.open(target)), values)
    (tmp_path / "broken.jxl").write_bytes(b"no")
    with pytest.raises(RuntimeError, match=r"djxl .* failed"):
        copy_photo(tmp_path / "broken.jxl", tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["bird.png"]


def test_other_photos_are_copied(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    (tmp_path / "out").mkdir()
    assert copy_photo(tmp_path / "a.jpg", tmp_path / "out").read_bytes() == b"photo"
