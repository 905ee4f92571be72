"""What is asked of a detector's fit: the same seed gives the same bits, a checkpoint the same scores."""

from __future__ import annotations

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from detectors.base import Detector
from detectors.contract.scores import REPEAT_TOLERANCE, close, scores
from detectors.errors import ContractError
from detectors.noise import Noise, NoiseSeed

_BY_THE_SEED = "draw all randomness from generators made of the seed (detectors.noise.generator)"
_FROM_THE_START = "begin each fit from the start"


def unfitted(detector: Detector) -> Detector:
    """Another one of the same class, settings and size, as the registry builds it."""
    with torch.random.fork_rng(devices=[]):  # torch's layers draw when they are built
        return type(detector)(detector.settings, detector.image_size)


def check_fit_repeats(detector: Detector, normals: Tensor) -> None:
    """Another fit with the seed of the fit report, whatever the global random state and whatever the object was fitted
    on before: the same bits, and that state untouched.

    Args:
        detector: fitted on the normals.
        normals: all that it was fitted on, (N, 3, S, S) in [0, 1].

    Raises:
        ContractError: it is not so.
    """
    seed = int(detector.fit_report.get("seed", 0))
    torch.manual_seed(12345)
    np.random.seed(12345)
    random.seed(12345)
    before, kept = global_states(), normals.clone()
    again = unfitted(detector)
    again.fit(1 - normals[: max(again.min_normals, len(normals) // 2)], seed=seed + 1)
    with torch.no_grad():  # a caller's gradient mode must not matter either
        again.fit(normals, seed=seed)
    _require(detector, global_states() == before, "fit() touches a global random state", _BY_THE_SEED)
    _require(detector, torch.equal(kept, normals), "fit() changes the training images", "compute on a copy")
    mine, theirs = detector.state_dict(), again.state_dict()
    _require(detector, mine.keys() == theirs.keys(), "another fit has other parameters and buffers", _FROM_THE_START)
    for key, value in mine.items():
        same = torch.equal(value.float(), theirs[key].to(value.device).float())
        _require(detector, same, f"two fits with the same seed differ in {key}", f"{_BY_THE_SEED}; {_FROM_THE_START}")
    frozen = not any(parameter.requires_grad for parameter in again.parameters())
    _require(detector, frozen, "its weights still ask for gradients after the fit", "leave fit() as Detector has it")


def check_checkpoint(detector: Detector, x: Tensor, noise: Noise) -> None:
    """Saved, even after a visit to float64, and loaded into another object, twice: the same scores and fit report.

    Args:
        detector: fitted.
        x: images, float32 (B, 3, S, S).
        noise: their source.

    Raises:
        ContractError: it is not so.
        CheckpointError: the detector refuses its own file.
    """
    expected = scores(detector, x, noise)
    scores(detector, x.double(), noise)  # must not find its way into the file
    with TemporaryDirectory() as folder:
        path = detector.save(Path(folder) / "fitted.safetensors", extra={"why": "contract"})
        loaded = unfitted(detector).load(path).to(x.device)
        # Not to the bit: where tensors lie in memory decides on some processors how a sum is rounded.
        same = close(scores(loaded, x, noise), expected, REPEAT_TOLERANCE)
        _require(detector, same, "a loaded checkpoint gives other scores", "keep what is learned in buffers")
        same = close(scores(loaded.load(path), x, noise), expected, REPEAT_TOLERANCE)
        _require(detector, same, "loading twice changes its scores", "overwrite what was there in _after_load")
    same = loaded.fit_report == json.loads(json.dumps(detector.fit_report))
    _require(detector, same, "a loaded checkpoint has another fit report", "fill it with what JSON can hold")
    frozen = any(key.startswith(detector.frozen_prefixes or ("\0",)) for key in loaded.state_dict())
    named = frozen == bool(detector.frozen_hashes())
    _require(detector, named, "its frozen weights have no hash", "name them in frozen_prefixes and frozen_hashes()")


def auc(detector: Detector, normals: Tensor, anomalies: Tensor) -> float:
    """Area under the ROC curve in per cent: of all pairs of a normal image and an anomaly, (N, 3, S, S) and
    (M, 3, S, S), those in which the anomaly has the higher score; equal ones count half. Always on the same noise."""
    names = [f"image-{i}" for i in range(len(normals) + len(anomalies))]
    noise = NoiseSeed(0).source("floor", names)
    found = scores(detector, torch.cat([normals, anomalies]), noise).double()
    of_normals, of_anomalies = found[: len(normals)], found[len(normals) :, None]
    return 100 * float(((of_anomalies > of_normals).double() + 0.5 * (of_anomalies == of_normals)).mean())


def check_floor(detector: Detector, normals: Tensor, anomalies: Tensor, floor: float) -> None:
    """A gradient means little of a detector that detects nothing: its AUC in per cent must reach a floor.

    Args:
        detector: fitted.
        normals, anomalies: images that it was not fitted on, (N, 3, S, S) and (M, 3, S, S); two dozen each will do.
        floor: well below what the detector reaches over seeds, and above what it has untrained.

    Raises:
        ContractError: it does not reach it.
    """
    found = auc(detector, normals, anomalies)
    _require(detector, found >= floor, f"its AUC of {found:.1f} is below {floor:g}", "fit longer, or look for a bug")


def global_states() -> tuple[bytes, str, object]:
    """Of the random generators of torch, NumPy and Python."""
    return torch.random.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()


def _require(detector: Detector, kept: bool, what: str, todo: str) -> None:
    if not kept:
        raise ContractError(f"{detector.name} breaks the contract: {what}; {todo}.")
