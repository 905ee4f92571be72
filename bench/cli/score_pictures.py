"""`bench score`: a fitted detector on a user's own pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

import detectors
from bench.cell import fitting
from bench.cell.group import reason_of
from bench.cell.verdict import CALIBRATION_FPR
from bench.cli.progress import ConsoleReporter
from bench.data import registry as datasets
from bench.data.images import EXTENSIONS, read_rgb_tensor
from bench.data.listing import pictures_below
from bench.errors import BenchError, DataError
from bench.metrics import ranking
from bench.plan import presets
from bench.plan.build import build
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from bench.text import one_line
from detectors.base import Detector
from detectors.errors import DetectorError
from detectors.noise import fresh

BATCH = 16


@dataclass(frozen=True)
class ScoredFiles:
    """Scores of a user's pictures.

    Attributes:
        names: file names as they were given.
        means, spreads: of the scores over noise draws; the spread is 0 for a deterministic detector.
        threshold: 5 % of held-out normal pictures score above it; None where none were held out.
        detector: its name.
        explanation: what the figures mean, for the user.
        problems: a sentence for each picture in a folder that could not be read; the others are scored all the same.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    threshold: float | None
    detector: str
    explanation: str
    problems: tuple[str, ...] = ()


def score_files(
    paths: Sequence[Path], run: RunConfig, *, checkpoint: str | None, draws: int, console: Console
) -> ScoredFiles:
    """Score pictures with one detector, from a checkpoint or fitted as `run` says.

    Args:
        paths: of pictures, and of folders: all pictures in them, and in folders below.
        run: what is to be fitted, where there is no checkpoint.
        checkpoint: a file or a shipped name.
        draws: of the noise of a stochastic detector.
        console: to show a fit on.

    Raises:
        BenchError, DetectorError: a picture that was named and cannot be read, no picture that can, a detector that
            cannot be had.
    """
    if draws < 1:
        raise BenchError(f"--draws must be at least 1; got {draws}.")
    named = {path for path in paths if not path.is_dir()}
    paths = [picture for path in paths for picture in _pictures_at(path)]
    held_out: Tensor | None = None
    if checkpoint is not None:
        detector, origin = detectors.load(checkpoint).to(run.torch_device()), f"the checkpoint {checkpoint}"
        side = detector.image_size
        paths, pictures, problems = _pictures(paths, named, side, run.bit_depth)
    else:
        # Before a fit of minutes: a picture may be damaged.
        side = run.image_size or presets.get(run.preset).side(run.dataset)
        paths, pictures, problems = _pictures(paths, named, side, run.bit_depth)
        detector, held_out, origin = _fitted(run, console)
    with _any_code(detector.name):
        scores = _scores(detector, pictures, draws)
    if not np.isfinite(scores).all():
        odd = ", ".join(str(p) for p, s in zip(paths, scores.T, strict=True) if not np.isfinite(s).all())
        raise BenchError(f"{detector.name} gives {one_line(odd)} a score that is no finite number; fit it again.")
    threshold = None
    if held_out is not None and len(held_out) >= 10:
        threshold = ranking.threshold_on_normals(_scores(detector, held_out, draws).mean(axis=0), CALIBRATION_FPR)
    return ScoredFiles(
        names=tuple(str(path) for path in paths),
        means=tuple(float(s) for s in scores.mean(axis=0)),
        spreads=tuple(float(s) for s in scores.std(axis=0)),
        threshold=threshold,
        detector=detector.name,
        explanation=_explanation(detector, origin, threshold, draws, 0 if held_out is None else len(held_out)),
        problems=tuple(problems),
    )


def _pictures_at(path: Path) -> list[Path]:
    """The picture that is there, or those in a folder. Raises DataError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no picture {path}; give the paths of picture files, or of folders with some.")
    found = pictures_below(path)
    if not found:
        raise DataError(
            f"There is no picture in the folder {path}, nor in one below; looked for files whose names end in "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return found


def _pictures(
    paths: Sequence[Path], named: Collection[Path], side: int, bits: int | None
) -> tuple[list[Path], Tensor, list[str]]:
    """The pictures that can be read, as a batch in [0, 1], and a sentence for each of the others, unless the user has
    named it: then it is raised."""
    found: dict[Path, Tensor] = {}
    problems = []
    for path in paths:
        try:
            found[path] = read_rgb_tensor(path, side, bits)
        except DataError as error:
            if path in named:
                raise
            problems.append(str(error))
    if not found:
        raise DataError(problems[0])
    return list(found), torch.stack(list(found.values())).float() / 255, problems


def _fitted(run: RunConfig, console: Console) -> tuple[Detector, Tensor, str]:
    category = (run.categories or ("",))[0]
    name = run.detectors[0]
    dataset = datasets.get(run.dataset, run.data_root, run.reading)
    dataset.validate(category)
    side = run.image_size or presets.get(run.preset).side(run.dataset)
    data = training_data(dataset, category, side, run)
    with ConsoleReporter(console, 1) as reporter, _any_code(name):
        fitted = fitting.obtain(
            build(name, category, side, run),
            dataset,
            category,
            data,
            run,
            reporter.fitting(name, category, run.fit_seed),
        )
    return fitted.detector, data.held_out.pixels(), f"{run.dataset} {category} ({fitted.origin} checkpoint)"


@contextmanager
def _any_code(name: str) -> Iterator[None]:
    """Within it a detector may do what it likes, even end Python: it becomes a BenchError."""
    try:
        yield
    except (BenchError, DetectorError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise BenchError(reason_of(error, f"scoring with {name}", then="report it to its author")) from error


def _scores(detector: Detector, pictures: Tensor, draws: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    device = next((t.device for t in detector.state_dict().values()), torch.device("cpu"))
    count = draws if detector.is_stochastic else 1
    rows = []
    with torch.no_grad():
        for _ in range(count):
            parts = [p.to(device) for p in pictures.split(BATCH)]  # type: ignore[no-untyped-call]
            rows.append(torch.cat([detector.score(p, noise=fresh(len(p))) for p in parts]).double().cpu())
    return torch.stack(rows).numpy()


def _explanation(detector: Detector, origin: str, threshold: float | None, draws: int, held_out: int) -> str:
    text = f"{detector.title}, fitted on {origin}; higher is more anomalous"
    if detector.is_stochastic:
        text += f"; mean and spread over {draws} noise draws"
    if threshold is None:
        return text + "."
    return (
        text + f". The threshold {threshold:.4g} leaves {100 * CALIBRATION_FPR:.0f} % of {held_out} held-out normal "
        "pictures above it. A picture of another kind of part than the detector was fitted on scores high."
    )


def as_table(found: ScoredFiles) -> Table:
    """For the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("picture", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("spread", justify="right")
    if found.threshold is not None:
        table.add_column("looks")
    for name, mean, spread in zip(found.names, found.means, found.spreads, strict=True):
        row: list[Text | str] = [Text(one_line(name)), f"{mean:.5g}", f"{spread:.2g}"]
        if found.threshold is not None:
            row.append("ANOMALOUS" if mean > found.threshold else "normal")
        table.add_row(*row)
    return table


def as_json(found: ScoredFiles) -> str:
    """One object with the threshold and a list of pictures."""
    pictures = [
        {"picture": name, "score": mean, "spread": spread}
        | ({} if found.threshold is None else {"anomalous": mean > found.threshold})
        for name, mean, spread in zip(found.names, found.means, found.spreads, strict=True)
    ]
    return json.dumps({"detector": found.detector, "threshold": found.threshold, "pictures": pictures}, indent=2) + "\n"
