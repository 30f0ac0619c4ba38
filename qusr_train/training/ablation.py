"""The paper's Table 2 on nano: with and without the quality prior and the uncertainty-guided noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..checkpoints.nano_file import load_nano
from ..errors import InputError
from ..evaluation.evaluate import evaluate_folders, write_json
from ..evaluation.report import Reports, markdown_table, write_csv, write_text
from ..images.find import find_images
from ..restore import Restorer, restore_file
from .config import TrainConfig
from .loop import train

VARIANTS: dict[str, tuple[bool, bool]] = {
    "neither": (False, False),
    "quality prior": (True, False),
    "uncertainty noise": (False, True),
    "both (QUSR)": (True, True),
}
"""Name -> (quality prompts, uncertainty-guided noise)."""


def variant_config(config: TrainConfig, prior: bool, noise: bool, out: Path) -> TrainConfig:
    """The settings of one variant: everything else, the seed included, stays the same."""
    return dataclasses.replace(
        config,
        out=str(out),
        prompts=config.prompts if prior else "empty",
        noise_p=config.noise_p if noise else 0.0,
    )


def run_ablation(config: TrainConfig, pairs: Path) -> Reports:
    """Train four variants of stage `qusr`, restore PAIRS/lr with each and compare with PAIRS/hr.

    Variants without the quality prior are also restored without a prompt. Finished variants are not
    trained again; the tables go to OUT/ablation.md, .csv and .json.

    Raises:
        ValueError: another stage than `qusr`, or no pairs.
    """
    if config.stage != "qusr":
        raise InputError(f"the ablation fine-tunes nano, stage qusr, but got {config.stage}", field="stage")
    for part in ("lr", "hr"):
        if not (pairs / part).is_dir():
            raise InputError(f"expected the folders lr and hr in it, but {part} is missing", field="eval", value=pairs)
    out = Path(config.out)
    reports: Reports = {}
    for name, (prior, noise) in VARIANTS.items():
        folder = out / name.split(" (")[0].replace(" ", "-")
        restorer = Restorer(load_nano(train(variant_config(config, prior, noise, folder))))
        for source in find_images(pairs / "lr"):
            target = folder / "restored" / f"{source.stem}.png"
            restore_file(restorer, source, target, None if prior else "", seed=0)
        reports[name] = evaluate_folders(folder / "restored", pairs / "hr")
    write_text(out / "ablation.md", markdown_table(reports))
    write_csv(out / "ablation.csv", reports)
    write_json(out / "ablation.json", reports)
    return reports
