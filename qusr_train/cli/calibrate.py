"""`calibrate`: measure what a nano model's map means, and write it into its file."""

from __future__ import annotations

import argparse
import dataclasses
from datetime import date
from pathlib import Path

from ..errors import InputError
from .parsers import Commands, device


def add(commands: Commands) -> None:
    calibrate = commands.add_parser(
        "calibrate", help="measure what a nano model's uncertainty map means in grey levels, and store it in its file"
    )
    calibrate.add_argument("model", metavar="MODEL", help="a nano .safetensors file")
    calibrate.add_argument(
        "--pairs", required=True, metavar="DIR", help="folder with lr and hr, four times as large; not used in training"
    )
    calibrate.add_argument("--out", metavar="FILE", help="write to this file (default: into MODEL itself)")
    calibrate.add_argument(
        "--confidence", type=float, default=0.9, help="of the trust mask, in (0, 1); 0.9 needs 10 pairs (default: 0.9)"
    )
    calibrate.add_argument("--note", default="", help="what the pairs are, kept in the file")
    calibrate.add_argument("--device", default="cpu", help="torch device, e.g. cuda (default: cpu)")
    calibrate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..checkpoints.nano_file import load_nano, save_nano
    from ..evaluation.calibration import CalibrationPairs, Measurement, least_pairs, measure
    from ..model.map_calibration import DEFAULT_ERROR
    from ..restore import Restorer

    if not 0 < arguments.confidence < 1:
        raise InputError("expected a number between 0 and 1", "confidence", arguments.confidence)
    checkpoint = load_nano(arguments.model)
    pairs = CalibrationPairs.find(Path(arguments.pairs))
    needed = least_pairs(arguments.confidence)
    if len(pairs.pairs) < needed:
        raise InputError(
            f"a confidence of {arguments.confidence:g} needs at least {needed} pairs, but got {len(pairs.pairs)}",
            "pairs", pairs.folder,
        )  # fmt: skip
    measurement = Measurement()
    restorer = Restorer(checkpoint, device(arguments.device))
    for magnitude, error in tqdm(measure(restorer, pairs), total=len(pairs.pairs), unit="pair"):
        measurement.add(magnitude, error)
    note = f"{arguments.note or pairs.folder.name}, {len(pairs.pairs)} pairs, {date.today().isoformat()}"
    calibration = measurement.result(note, arguments.confidence)
    target = Path(arguments.out or arguments.model)
    save_nano(target, dataclasses.replace(checkpoint, calibration=calibration))
    print(f"{target}: map of {calibration.curve[0][1]:.2f} to {calibration.curve[-1][1]:.2f} grey levels ({note})")
    level = calibration.trust_for(DEFAULT_ERROR)
    assert level is not None  # DEFAULT_ERROR is one of the promises
    print(
        f"error below {level.error:g} grey levels with {level.confidence:.0%} confidence where the map is below "
        f"{level.threshold:.2f}: {level.share:.0%} of the pixels"
    )
    return 0
