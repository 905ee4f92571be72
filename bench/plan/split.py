"""The split of a category's training normals: those to fit on, and those kept from every fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.base import Dataset, ImageSet, id_hash
from bench.plan import presets
from bench.plan.request import RunConfig


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A category's normals: those to fit on, and those kept from every fit to choose settings and thresholds on."""

    fit: ImageSet
    held_out: ImageSet


def training_data(dataset: Dataset, category: str, image_size: int, run: RunConfig) -> TrainingData:
    """Split the training normals. The held-out ones are chosen by a hash of their names: 32, or a tenth of few."""
    normals = dataset.train(category, image_size, limit=run.limit)
    fit, held_out = _split(normals.ids, run)
    return TrainingData(normals.subset(fit), normals.subset(held_out))


def fit_ids(dataset: Dataset, category: str, run: RunConfig) -> tuple[str, ...]:
    """The ids of what `training_data` gives to fit on, in its order; nothing is decoded."""
    ids = dataset.train_ids(category, limit=run.limit)
    return tuple(ids[i] for i in _split(ids, run)[0])


def _split(ids: Sequence[str], run: RunConfig) -> tuple[list[int], list[int]]:
    """Which of the training normals are fitted on, and which are held out."""
    order = sorted(range(len(ids)), key=lambda i: id_hash("hold-out " + ids[i]))
    count = held_out_count(len(ids), run)
    return sorted(order[count:]), sorted(order[:count])


def held_out_count(normals: int, run: RunConfig) -> int:
    """How many of the training normals are kept from the fit."""
    wanted = presets.get(run.preset).holdout if run.holdout is None else run.holdout
    return min(wanted, normals // 10)
