"""Looking at a category before believing a figure: what is odd about its pictures, and whether a run refuses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.data import mask_files
from bench.data.base import ANOMALOUS, NORMAL, Dataset, ImageSet, Split
from bench.data.findings import Finding
from bench.data.groups import LEAST_PAIRS, matched
from bench.errors import DataError
from bench.inspection import bit_depth
from bench.inspection.leaks import leaks
from bench.inspection.shortcuts import separabilities, shortcuts
from bench.text import one_line, plural

_BRIEFS = 4  # in one line
# What distorts every figure first.
_ORDER = ("bit depth", "leak", "groups", "shortcut", "near-duplicates", "duplicates", "masks", "left out")


@dataclass(frozen=True)
class Inspection:
    """What was found out about a category.

    Attributes:
        category: its name.
        head: how many pictures it has and how many are used, as a phrase.
        findings: what is odd, the gravest first.
        separability: AUC, or 100 - AUC, of each shortcut (`bench.inspection.shortcuts`), in per cent.
    """

    category: str
    head: str = ""
    findings: tuple[Finding, ...] = ()
    separability: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The category in one line, for the start of a run."""
        start = f"{one_line(self.category, 40)}: {self.head}; "
        if not self.findings:
            return start + "nothing odd"
        briefs = [finding.brief for finding in self.findings]
        more = [f"{len(briefs) - _BRIEFS} more"] if len(briefs) > _BRIEFS else []
        return start + "LOOK: " + "; ".join([*briefs[:_BRIEFS], *more]) + "; python -m bench inspect says more"

    @property
    def remarks(self) -> list[str]:
        """For the records."""
        return [finding.sentence for finding in self.findings]

    @property
    def refusals(self) -> list[str]:
        """Why a run refuses the category, as sentences; empty where it does not."""
        return [finding.sentence for finding in self.findings if finding.refuses]

    def check(self) -> None:
        """Raises DataError where a run must refuse the category."""
        if self.refusals:
            raise DataError(f"{one_line(self.category, 40)}: {' '.join(self.refusals)}")


def inspect(dataset: Dataset, category: str, training: Sequence[ImageSet], test: ImageSet) -> Inspection:
    """Look at a category's files and at the pictures that were decoded.

    Args:
        dataset, category: what is looked at.
        training: the normals to fit on, then those that are held out.
        test: the test images.
    """
    split, facts = dataset.split(category), dataset.facts(category)
    found = separabilities(test, facts, [name for images in training for name in images.ids])
    findings = [
        *bit_depth.findings(dataset, split.train + split.test, facts, [*training, test]),
        *leaks(split, facts, training, test, refuse=dataset.is_mendable),
        *_unmatched_groups(split, is_matched=dataset.is_matched(category)),
        *shortcuts(found, test),
        *mask_files.odd(test),
        *mask_files.other_size(split, facts),
        *dataset.findings(category),
    ]
    findings.sort(key=lambda finding: (not finding.refuses, _ORDER.index(finding.kind)))
    return Inspection(category, _head(dataset, category, training, test), tuple(findings), found)


def _head(dataset: Dataset, category: str, training: Sequence[ImageSet], test: ImageSet) -> str:
    split = dataset.split(category)
    used, held_out = sum(map(len, training)), len(training[-1]) if len(training) > 1 else 0
    of_all = f" of {len(split.train)}" if used < len(split.train) else ""
    head = f"{used}{of_all} training normals" if of_all else plural(used, "training normal")
    if held_out:
        head += f" ({held_out} held out)"
    normals, anomalies = (int((test.labels == label).sum()) for label in (NORMAL, ANOMALOUS))
    head += f", {normals} + {anomalies}"
    if (normals, anomalies) != (len(split.normals), len(split.anomalies)):
        head += f" of {len(split.normals)} + {len(split.anomalies)}"
    head += " test pictures"
    if dataset.is_matched(category):
        head += f", matched by {plural(len({normal.group for normal, _ in matched(split.test)}), 'group')}"
    return head


def _unmatched_groups(split: Split, *, is_matched: bool) -> list[Finding]:
    if is_matched or not any(sample.group for sample in split.test):
        return []
    pairs = len(matched(split.test))
    return [
        Finding(
            "groups",
            "test set not matched by group",
            f"Only {plural(pairs, 'normal test picture')} can be paired with an anomaly of the same group, and "
            f"{LEAST_PAIRS} are needed, so the test set is not matched by group: its AUC may tell groups apart, not "
            "defects.",
        )
    ]
