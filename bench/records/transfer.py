"""A transfer matrix: adversarial images made on each detector, judged on all. Its figures, and its CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.metrics import intervals, ranking
from bench.metrics.ranking import Floats
from bench.text import attack_text, escape_csv, one_line

FORMAT = 1
CLEAN = "clean"  # how tables call the first row: images as they are
# By how much images that were made elsewhere must leave less than a detector's own, in points of AUC: a white box that
# falls short by less may have been a little short of steps.
MARGIN = 1.0
STANDARD_ERRORS = 2.0  # of the paired difference over a stochastic detector's draws, which it must exceed as well


@dataclass(frozen=True)
class Entry:
    """An AUC in per cent with its 95 % interval: the mean of single-draw AUCs, `sd` their deviation.

    Attributes:
        lead: by how much the AUC lies below that of the images made on the judging detector itself, the mean over
            common draws; None where there are no such images, and for clean images.
        lead_error: the standard error of that mean; 0 of a deterministic detector.
    """

    auc: float
    low: float
    high: float
    sd: float
    strict_auc: float
    lead: float | None = None
    lead_error: float = 0.0

    @property
    def is_ahead(self) -> bool:
        """Whether images made elsewhere did more than those made on the detector itself, beyond `MARGIN` and noise."""
        return self.lead is not None and self.lead > max(MARGIN, STANDARD_ERRORS * self.lead_error)


def entry(scores: Floats, labels: Any, own: Floats | None = None) -> Entry:
    """The entry of scores (D, N); with `own`, those of the images made on the judging detector itself, on the same
    draws. Raises CellError where a score is NaN or a class is missing."""
    found = intervals.summary(scores, labels)
    lead, error = None, 0.0
    if own is not None:
        ahead = np.atleast_1d(ranking.auc(own, labels) - ranking.auc(scores, labels))
        lead = float(ahead.mean())
        error = float(ahead.std(ddof=1)) / len(ahead) ** 0.5 if len(ahead) > 1 else 0.0
    figures = {name: found[name] for name in ("auc", "low", "high", "sd", "strict_auc")}
    return Entry(**figures, lead=lead, lead_error=error)


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """AUCs of detectors on images that were made on others.

    Attributes:
        attack: the name of what made them; norm, epsilon: its ball on the [0, 1] scale.
        sources: on which images were made: the rows; targets: which judge them: the columns.
        clean: of the images as they are, by target.
        entries: by (source, target); where the two are one, it is the white box.
        reasons: why a detector has no figures, or made no images.
        draws: noise draws of each target's verdict.
    """

    attack: str
    norm: str
    epsilon: float
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    clean: Mapping[str, Entry]
    entries: Mapping[tuple[str, str], Entry]
    reasons: Mapping[str, str] = field(default_factory=dict)
    draws: Mapping[str, int] = field(default_factory=dict)

    def auc(self, source: str, target: str) -> float | None:
        """In per cent; None where there is none."""
        found = self.entries.get((source, target))
        return None if found is None else found.auc

    @property
    def values(self) -> Floats:
        """(1 + sources, targets): the clean AUCs, then a row for each source; NaN where there is none."""
        rows = [[self.clean[t].auc if t in self.clean else np.nan for t in self.targets]]
        for source in self.sources:
            found = [self.auc(source, target) for target in self.targets]
            rows.append([np.nan if value is None else value for value in found])
        return np.array(rows, dtype=np.float64).reshape(1 + len(self.sources), len(self.targets))

    @property
    def title(self) -> str:
        return attack_text(one_line(self.attack, 60), self.epsilon, self.norm)

    def ahead(self, target: str) -> list[str]:
        """The sources whose images did more to a target than its own, the strongest first."""
        found = [s for s in self.sources if s != target and (s, target) in self.entries]
        found = [s for s in found if self.entries[s, target].is_ahead]
        return sorted(found, key=lambda source: self.entries[source, target].auc)

    def flags(self) -> list[str]:
        """A sentence for each detector whose gradient may be masked: images made on others did more to it than the
        attack on itself, which has its gradient."""
        sentences = []
        for target in self.targets:
            sources = self.ahead(target)
            if sources:
                listed = ", ".join(f"{one_line(s, 60)} {self.entries[s, target].auc:.1f}" for s in sources)
                sentences.append(
                    f"{one_line(target, 60)}: images made on other detectors do more than its own, which leave an AUC "
                    f"of {self.entries[target, target].auc:.1f} ({listed}): its gradient may be masked, and its own "
                    "figure is no claim"
                )
        return sentences

    def document(self) -> dict[str, Any]:
        """What of the matrix is written as JSON."""
        return {
            "format": FORMAT,
            "kind": "transfer",
            "attack": self.attack,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "sources": list(self.sources),
            "targets": list(self.targets),
            "clean": {target: asdict(found) for target, found in self.clean.items()},
            "made_on": {
                source: {t: asdict(self.entries[source, t]) for t in self.targets if (source, t) in self.entries}
                for source in self.sources
            },
            "draws": dict(self.draws),
            "flags": self.flags(),
            "failed": dict(self.reasons),
        }


def render(matrix: TransferMatrix) -> str:
    """The CSV's text: AUCs, rows by what images were made on, columns by what judged them; empty where there is none.
    Numbers come back bit by bit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["made on", *map(escape_csv, matrix.targets)])
    for name, row in zip((CLEAN, *matrix.sources), matrix.values, strict=True):
        writer.writerow([escape_csv(name), *("" if np.isnan(value) else repr(float(value)) for value in row)])
    return stream.getvalue()
