"""Settings that the suite chooses itself (`k: auto` of FreeRAD), without looking at test data.

Normals that were kept from the fit stand beside painted copies of themselves (`bench.cell.painted_defects`). Every
candidate is judged by the mean of the clean AUC and the AUC under PGD, both averaged over draws; the table stays in
the checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import attacks
from bench.cell.painted_defects import paint
from bench.data.base import ImageSet
from bench.metrics.ranking import mean_single_draw_auc
from bench.plan.build import OPEN_SETTING_REVISION, check_open_setting, open_setting
from detectors.base import Detector, Progress
from detectors.noise import Noise, NoiseSeed

DRAWS, BATCH = 5, 16
ATTACK = "pgd-linf"
# Small, since it is made for each candidate; averaging is what counts (`attacks.pgd`).
BUDGET: dict[str, Any] = {"steps": 12, "eot": 1, "eot_last": 4, "momentum": 0.9, "schedule": "cosine", "keep": "last"}


def choose(
    detector: Detector, fitted_on: ImageSet, held_out: ImageSet, *, seed: int, progress: Progress
) -> dict[str, Any]:
    """Set the detector's open setting to its best candidate.

    Returns:
        What was tried and what came out, for the checkpoint.

    Raises:
        BenchError: there are too few held-out normals.
    """
    setting = open_setting(detector)
    if setting is None:
        raise ValueError(f"{detector.name} has no setting that is 'auto'.")
    check_open_setting(detector, len(held_out))
    device = next(detector.parameters()).device
    normals = fitted_on.pixels().to(device)
    clean = held_out.pixels()
    images = torch.cat([clean, paint(clean, held_out.ids, seed=seed)]).to(device)
    labels = torch.cat([torch.ones(len(clean)), -torch.ones(len(clean))]).to(device)
    ids = [*held_out.ids, *(f"{name} painted" for name in held_out.ids)]

    candidates = detector.auto_choices[setting]
    table = []
    for number, value in enumerate(candidates):
        detector.choose(setting, value, normals, seed=seed)
        standard = _auc(detector, images, labels, ids, seed)
        attacked = _attacked(detector, images, labels, ids, seed)
        robust = _auc(detector, attacked, labels, ids, seed)
        table.append({setting: value, "clean_auc": round(standard, 2), "robust_auc": round(robust, 2)})
        progress(number + 1, len(candidates), f"choosing {setting}: {value} gives {standard:.1f} / {robust:.1f}")
    best = max(table, key=lambda row: row["clean_auc"] + row["robust_auc"])
    detector.choose(setting, int(best[setting]), normals, seed=seed)
    return {
        "setting": setting,
        "chosen": best[setting],
        "table": table,
        "judged_on": f"{len(clean)} held-out training normals and painted copies of them",
        "attack": {"name": ATTACK, **BUDGET},
        "draws": DRAWS,
        "revision": OPEN_SETTING_REVISION,
    }


def _auc(detector: Detector, images: Tensor, labels: Tensor, ids: list[str], seed: int) -> float:
    source = NoiseSeed(seed).source("auto-verdict", ids)
    with torch.no_grad():
        scores = [
            torch.cat([detector.score(images[part], noise=source.pick(part).at(draw)) for part in _parts(len(images))])
            for draw in range(DRAWS if detector.is_stochastic else 1)
        ]
    return mean_single_draw_auc(torch.stack(scores).cpu().numpy(), labels.cpu().numpy()).mean


def _attacked(detector: Detector, images: Tensor, labels: Tensor, ids: list[str], seed: int) -> Tensor:
    attack = attacks.get(ATTACK, image_size=images.shape[-1], **BUDGET)
    root = NoiseSeed(seed)

    def source(purpose: str, part: slice) -> Noise:
        return root.source(purpose, ids[part])

    return torch.cat(
        [
            attack.run(
                detector,
                images[part],
                labels[part],
                noise=source("auto-attack", part),
                selection=source("auto-selection", part),
            ).images
            for part in _parts(len(images))
        ]
    )


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
