"""Some test images of a category and what an attack makes of them, for whoever looks at the images themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Attack
from bench.cell.pictures import Category
from bench.cell.transfer import Ground, Shown, unseen
from bench.cell.verdict import Draws
from bench.data.base import ImageSet
from bench.errors import BenchError
from bench.plan import presets, protocols
from detectors.base import Detector


@dataclass(frozen=True, eq=False)
class AttackedPairs:
    """Images and their attacked copies: float32 (n, 3, S, S) in [0, 1], in the order of `ids`; labels int8 (n,)."""

    ids: tuple[str, ...]
    labels: Tensor
    clean: Tensor
    attacked: Tensor


def attacked_pairs(
    category: Category, name: str, detector: Detector, attack: Attack, *, images: int, shown: Shown = unseen
) -> AttackedPairs:
    """Attack as many test images as asked for, half of each class, each to the end and as a run does it.

    Args:
        category: its pictures, and the plan that says how it is attacked.
        name: the detector's.
        detector: fitted, on the plan's device.
        attack: with its threat model settled.
        images: how many, 2 or more; as many as there are, where there are fewer.
        shown: progress, as of `Ground`.

    Raises:
        BenchError: fewer than 2 images are asked for.
        CellError: the detector breaks the contract, or an image needs too much memory.
    """
    if images < 2:
        raise BenchError(f"Name 2 images or more, half of them anomalous; got {images}.")
    run = category.plan.run
    test = _half_of_each(category.test, images)
    ground = Ground(
        test,
        Draws(protocols.get(run.protocol).verdict_draws, run.seed),
        run.batch_size or presets.get(run.preset).batch_size,
        run.torch_device(),
        shown,
    )
    return AttackedPairs(test.ids, test.labels, test.pixels(), ground.images_of(name, detector, attack))


def _half_of_each(test: ImageSet, images: int) -> ImageSet:
    """Of each class so many, evenly spread over the test set's order: neighbours there are often parts of one whole."""
    chosen = []
    for label in (1, -1):
        places = torch.nonzero(test.labels == label).flatten()
        count = min(images // 2, len(places))
        chosen.append(places[torch.arange(count) * len(places) // max(count, 1)])
    return test.subset(torch.cat(chosen).sort().values)
