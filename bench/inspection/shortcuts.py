"""What separates the classes of a test set without a look at the object. A detector may be praised for finding it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from bench.data.base import ANOMALOUS, ImageSet
from bench.data.file_facts import FileFacts
from bench.data.findings import Finding
from bench.metrics import ranking
from bench.metrics.intervals import score_interval
from bench.metrics.ranking import Floats
from detectors.file_order import distances, running_number

SEPARATES = 90.0  # AUC in per cent, or 100 - AUC: as for the mark of brightness in leaderboards
_LEAST_SURE = 65.0  # of the interval's lower bound: among a dozen pictures an AUC of 90 is a matter of luck

MEANING = {
    "brightness": "Mean brightness",
    "file order": "The running number of the file, by its distance to those of training pictures,",
    "file size": "The file's size in bytes",
    "picture size": "The number of pixels before resizing",
    "file kind": "The kind of file (extension, format, colour mode)",
}


def separabilities(test: ImageSet, facts: Mapping[str, FileFacts], training: Sequence[str]) -> dict[str, float]:
    """AUC, or 100 - AUC where that is more, of each shortcut that can be measured, in per cent.

    Args:
        test: decoded.
        facts: of the files.
        training: the names of the training pictures.
    """
    labels = test.labels.numpy().astype(np.int64)
    own = [facts[name] for name in test.ids]
    numbers = [running_number(name) for name in training]
    found = {
        "brightness": test.pixels().mean(dim=(1, 2, 3)).numpy().astype(np.float64),
        "file order": distances(test.ids, numbers).numpy(),
        "file size": np.array([fact.size for fact in own], dtype=np.float64),
    }
    headers = [fact.header for fact in own if fact.header is not None]
    if len(headers) == len(own):
        found["picture size"] = np.array([h.width * h.height for h in headers], dtype=np.float64)
        kinds = [
            (PurePosixPath(name).suffix.lower(), header.format, header.mode)
            for name, header in zip(test.ids, headers, strict=True)
        ]
        found["file kind"] = _anomalous_share(kinds, labels == ANOMALOUS)
    aucs = {name: float(ranking.auc(values, labels)) for name, values in found.items()}
    return {name: max(auc, 100.0 - auc) for name, auc in aucs.items()}


def _anomalous_share(kinds: Sequence[tuple[str, ...]], anomalous: ranking.Bools) -> Floats:
    """For each picture the share of anomalies among those of its kind. Kinds are few, so a picture's own class adds
    little to it."""
    all_of, anomalous_of = (
        Counter(kinds),
        Counter(kind for kind, is_one in zip(kinds, anomalous, strict=True) if is_one),
    )
    return np.array([anomalous_of[kind] / all_of[kind] for kind in kinds])


def shortcuts(found: Mapping[str, float], test: ImageSet) -> list[Finding]:
    """One finding for each that separates the classes, of `separabilities`."""
    anomalies = int((test.labels == ANOMALOUS).sum())
    findings = []
    for name, value in found.items():
        if value > SEPARATES and score_interval(value, len(test) - anomalies, anomalies).low > _LEAST_SURE:
            findings.append(
                Finding(
                    "shortcut",
                    f"{name} alone separates the classes (AUC {value:.0f})",
                    f"{MEANING[name]} alone separates normal from anomalous test pictures (AUC, or 100 - AUC, "
                    f"{value:.0f}): take both classes under the same conditions and store them alike.",
                )
            )
    return findings
