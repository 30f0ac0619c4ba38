"""PSNR and SSIM on Y against values worked out by hand, and reports over folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qusr_train.errors import InputError
from qusr_train.evaluation.evaluate import Report, evaluate_folders, write_json
from qusr_train.evaluation.fidelity import luma, psnr, ssim
from qusr_train.evaluation.report import markdown_table
from qusr_train.images.map_file import write_map
from qusr_train.images.read import read_exact

WriteImage = Callable[..., Path]


def _flat(value: float, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), value)


def _random(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((20, 24, 3))


def test_luma_runs_from_16_to_235() -> None:
    assert luma(np.array([[[0.0, 0, 0], [1, 1, 1]]])) * 255 == pytest.approx(np.array([[16.0, 235.0]]))
    assert luma(np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])) * 255 - 16 == pytest.approx(
        np.array([[65.481, 128.553, 24.966]])
    )


def test_identical_images_have_80_db_and_ssim_1() -> None:
    image = _random()
    assert psnr(image, image) == pytest.approx(80.0)  # 1e-8 in the denominator is the limit
    assert ssim(image, image) == pytest.approx(1.0)


@pytest.mark.parametrize("offset", [0.1, -0.1, 0.5])
def test_psnr_of_a_constant_offset(offset: float) -> None:
    error = (offset * 219 / 255) ** 2  # an offset in RGB is 219/255 of it on Y
    assert psnr(_flat(0.5 + offset), _flat(0.5)) == pytest.approx(-10 * math.log10(error + 1e-8))


def test_psnr_of_ten_percent_is_21_32() -> None:
    assert psnr(_flat(0.6), _flat(0.5)) == pytest.approx(21.322, abs=1e-3)


def test_ssim_of_black_and_white_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)
    # The window's weights are rounded to float32 (as published), so flat areas have a trace of variance.
    assert ssim(_flat(0.0), _flat(1.0)) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.13564, abs=1e-5)


def test_ssim_of_one_window_is_the_formula_with_gaussian_weights() -> None:
    a, b = (np.repeat(_random(seed)[:11, :11, :1], 3, axis=2) for seed in (0, 1))
    b = 0.6 * a + 0.4 * b
    g = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    w = np.outer(g, g) / np.outer(g, g).sum()
    x, y = (np.round(image[..., 0] * 219 + 16) for image in (a, b))
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, vxy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * (2 * vxy + c2) / (vx + vy + c2)
    assert ssim(a, b) == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def test_ssim_clamps_inverted_structure_to_zero() -> None:
    image = np.repeat((np.indices((16, 16)).sum(0) % 2)[..., None], 3, axis=2).astype(float)
    assert ssim(image, 1 - image) == pytest.approx(0.0, abs=1e-6)


def test_figures_are_symmetric_and_fall_with_noise() -> None:
    image, noise = _random(), _random(1) - 0.5
    light, heavy = np.clip(image + 0.1 * noise, 0, 1), np.clip(image + 0.6 * noise, 0, 1)
    for figure in (psnr, ssim):
        assert figure(image, light) == pytest.approx(figure(light, image))
        assert figure(image, light) > figure(image, heavy)


def test_ssim_needs_one_window() -> None:
    assert ssim(_flat(0.3, 11), _flat(0.3, 11)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, but got 10 x 10"):
        ssim(_flat(0.3, 10), _flat(0.3, 10))


def test_pictures_are_read_as_rgb_from_0_to_1(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 51).save(tmp_path / "grey.png")
    assert np.array_equal(read_exact(tmp_path / "grey.png"), np.full((2, 3, 3), 0.2))


def test_folders_are_matched_by_stem_and_averaged(tmp_path: Path) -> None:
    for name, grey in (("a.png", 153), ("b.png", 102), ("extra.png", 0)):
        (tmp_path / "pred").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (grey,) * 3).save(tmp_path / "pred" / name)
    (tmp_path / "gt").mkdir()
    for name in ("a.bmp", "b.bmp", "other.bmp"):
        Image.new("RGB", (16, 16), (102,) * 3).save(tmp_path / "gt" / name)
    report = evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",))
    expected = {"a": -10 * math.log10((0.2 * 219 / 255) ** 2 + 1e-8), "b": 80.0}
    assert report.per_image.keys() == expected.keys()
    for stem, value in expected.items():
        assert report.per_image[stem] == {"psnr": pytest.approx(value)}
    assert report.mean == {"psnr": pytest.approx(sum(expected.values()) / 2)}


def test_different_sizes_are_named(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "pred" / "cat.png", (16, 12))
    write_image(tmp_path / "gt" / "cat.png", (64, 48))
    with pytest.raises(ValueError, match=r"cat\.png: prediction is 16 x 12, ground truth 64 x 48"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt")


def test_no_common_name_is_an_error(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "pred" / "cat.png")
    write_image(tmp_path / "gt" / "dog.png")
    with pytest.raises(ValueError, match=r"no image in .*pred has the same name as one in .*gt"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt")


def test_unknown_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics: unknown metric 'vmaf'; known: psnr, ssim, lpips"):
        evaluate_folders(tmp_path, tmp_path, ("psnr", "vmaf"))


def test_equal_names_in_different_folders_are_refused(tmp_path: Path, write_image: WriteImage) -> None:
    for folder in ("pred/x", "pred/y", "gt/x", "gt/y"):
        write_image(tmp_path / folder / "cat.png", (16, 16), seed=len(folder))
    with pytest.raises(ValueError, match="cat"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt")


def test_report_is_written_whole(tmp_path: Path) -> None:
    report = {"per_image": {"a": {"psnr": 30.5}}, "mean": {"psnr": 30.5}}
    write_json(tmp_path / "report.json", Report({"a": {"psnr": 30.5}}, {"psnr": 30.5}))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def _set_of_maps(folder: Path) -> None:
    """Two pictures of which every second row is wrong by 10 grey levels, and maps that say so by half."""
    rows = np.zeros((16, 16), np.float32)
    rows[::2] = 10
    for name in ("a", "b"):
        for part in ("pred", "gt", "maps/deep"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(0).integers(50, 200, (16, 16, 1)).repeat(3, 2)
        Image.fromarray(grey.astype(np.uint8)).save(folder / "gt" / f"{name}.png")
        Image.fromarray((grey + rows[..., None]).astype(np.uint8)).save(folder / "pred" / f"{name}.png")
        write_map(folder / "maps" / "deep" / f"{name}.npy", rows / 2 + 0.01)


def test_maps_are_judged_beside_the_pictures(tmp_path: Path) -> None:
    _set_of_maps(tmp_path)
    report = evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",), maps=tmp_path / "maps")
    assert list(report.mean) == ["psnr", "ause", "aurg", "ause_9x9", "ence", "map_luma", "map_flat"]
    assert report.mean["ause"] == report.per_image["a"]["ause"] == pytest.approx(0.0, abs=1e-12)
    assert report.mean["aurg"] > 0.3
    # Half of the pixels: 0.01 said, 0 true; the other half: 5.01 said, 10 true.
    assert report.mean["ence"] == pytest.approx((1 + 4.99 / 5.01) / 2, abs=1e-3)
    table = markdown_table({"x": report, "y": evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",))})
    assert "AUSE (lower)" in table
    assert "AURG (higher)" in table


def test_ence_of_a_set_is_not_the_mean_of_its_pictures(tmp_path: Path) -> None:
    _set_of_maps(tmp_path)
    for name, error in (("a", 4), ("b", 6)):  # every picture is off, together they are right
        Image.new("RGB", (16, 16), (100,) * 3).save(tmp_path / "gt" / f"{name}.png")
        Image.new("RGB", (16, 16), (100 + error,) * 3).save(tmp_path / "pred" / f"{name}.png")
        write_map(tmp_path / "maps" / "deep" / f"{name}.npy", np.full((16, 16), 5.0))
    report = evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",), maps=tmp_path / "maps")
    assert report.per_image["a"]["ence"] == pytest.approx(0.2)
    assert report.mean["ence"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((16, 8), np.float32), r"a\.npy: map is 8 x 16, the picture 16 x 16"),
        (np.ones((3, 16, 16), np.float32), r"a\.npy: expected one plane .* but got float32 \(3, 16, 16\)"),
        (np.ones((16, 16), np.uint8), r"a\.npy: expected one plane .* but got uint8"),
        (np.full((16, 16), np.nan, np.float32), r"a\.npy: expected finite errors of at least 0"),
        (np.full((16, 16), -1, np.float32), r"a\.npy: expected finite errors of at least 0"),
    ],
)
def test_bad_maps_are_named(tmp_path: Path, values: np.ndarray, message: str) -> None:
    _set_of_maps(tmp_path)
    np.save(tmp_path / "maps" / "deep" / "a.npy", values)
    with pytest.raises(InputError, match=message):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",), maps=tmp_path / "maps")


def test_map_files_that_would_run_code_or_are_absent(tmp_path: Path) -> None:
    _set_of_maps(tmp_path)
    np.save(tmp_path / "maps" / "deep" / "a.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: cannot be read as a map"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",), maps=tmp_path / "maps")
    with pytest.raises(InputError, match=r"gt: no maps found \(looked for \.npy\)"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr",), maps=tmp_path / "gt")
    with pytest.raises(InputError, match="ause is a figure of maps; give the maps"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ("psnr", "ause"))
