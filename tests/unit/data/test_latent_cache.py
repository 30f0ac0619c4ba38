"""One cache folder, three processes at once: every round whole, the same for all, each picture encoded once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

ROUNDS, RANKS = 10, 3


def _fill(rank: int, barrier: Barrier, model: Path, pairs: Path, out: Path, answers: Any) -> None:
    """What a process of a launch does, with the barrier of `accelerate` replaced by one of this machine."""
    import torch

    from qusr_train.data.latent_cache import Processes, fill
    from qusr_train.data.pairs import PairPatches
    from qusr_train.model.stable_diffusion import load_stable_diffusion

    torch.set_num_threads(1)
    try:
        base = load_stable_diffusion(model)
        for turn in range(ROUNDS):
            dataset = PairPatches(pairs, 64, 6, 1, "empty", fixed=True)
            fill(out / str(turn), dataset, base, model, Processes(rank, RANKS, lambda: _wait(barrier)))
            answers.put((rank, turn, sorted(dataset.stems)))
    except Exception as error:
        answers.put((rank, -1, repr(error)))
        barrier.abort()


def _wait(barrier: Barrier) -> None:
    barrier.wait(900)


def test_three_processes_fill_one_cache(tiny_sd21: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(RANKS), context.Queue()
    arguments = (barrier, tiny_sd21, tiny_pairs, tmp_path, answers)
    running = [context.Process(target=_fill, args=(rank, *arguments)) for rank in range(RANKS)]
    for one in running:
        one.start()
    got = []
    while len(got) < ROUNDS * RANKS:
        got.append(answers.get(timeout=900))
        assert got[-1][1] >= 0, got[-1]
    for one in running:
        one.join(60)
        assert one.exitcode == 0
    names = sorted(path.stem for path in (tiny_pairs / "hr").iterdir())
    assert all(stems == names for _, _, stems in got)
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["cache.json", *(f"{name}.safetensors" for name in names)]
        ), "nothing half-written is left"
        assert all(load_file(folder / f"{name}.safetensors")["moments"].shape == (2, 4, 8, 8) for name in names)
