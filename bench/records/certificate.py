"""A certificate's record: what was asked, as typed values whose hash is its key, and what came out.

It stands beside the records of attacks (`bench.records.record`) with the same guarantees: plain JSON, a hash of its
content and of its bounds, and no figure that does not follow from the bounds (`bench.records.certificate_figures`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import ContradictionError, RecordError
from bench.records import limits
from bench.records.cell import CellDetector, Entries, Subset, canonical_sha256, is_of
from bench.records.record import each_once, finite
from bench.records.schema import CONTENT, content_sha256
from bench.text import one_line

KIND, FORMAT = "certificate", 1
EXACT, PAPER = "exact", "paper"
RULES = ("percentile", "exceedance", PAPER, EXACT)
NORMS = ("l2", "linf")
STRICT_ALPHA = 0.001  # with a greater risk a certificate is marked
_LARGEST = 1e12


@dataclass(frozen=True)
class Smoothing(Entries):
    """What the bounds are of, and by which rule.

    Attributes:
        rule: "percentile", "exceedance", "paper" (uncertified) or "exact" (of a Lipschitz constant, without noise).
        norm: of the radii, "l2" or "linf".
        sigma, samples: of the noise on [0, 1]; how many scores of each image.
        p, asked: of the percentile: which one, and "auto" where it was chosen on held-out normals.
        threshold: of the exceedance, from held-out normals.
        constant: of the exact one: the Lipschitz constant in its norm.
    """

    OPTIONAL: ClassVar[frozenset[str]] = frozenset({"sigma", "samples", "p", "asked", "threshold", "constant"})

    rule: str
    norm: str
    sigma: float | None = None
    samples: int = 0
    p: float | None = None
    asked: str = ""
    threshold: float | None = None
    constant: float | None = None

    @property
    def is_certified(self) -> bool:
        return self.rule != PAPER


@dataclass(frozen=True)
class Claim(Entries):
    """Everything that a certificate's figures depend on.

    Attributes:
        dataset, category, fingerprint, remark, subset, preset, image_size, detector, holdout: as of
            `bench.records.cell.Cell`.
        smoothing: the rule.
        radii: at which the bounds hold, rising.
        alpha: the risk that some bound that counts (of a normal the upper one, of an anomaly the lower one) does not
            hold, of all images and radii together; 0 of an exact certificate.
        seed, fit_seed: of all noise; of the fit.
        attack: of the smoothed detector: as `Attack.describe`, less epsilon, with `radii`, the `samples` of the score
            that was attacked and `judged_on` so many fresh ones; empty where there was none.
    """

    OPTIONAL: ClassVar[frozenset[str]] = frozenset({"holdout", "attack"})

    dataset: str
    fingerprint: str
    category: str
    subset: Subset
    preset: str
    image_size: int
    detector: CellDetector
    smoothing: Smoothing
    radii: list[float]
    alpha: float
    seed: int
    fit_seed: int = 0
    remark: str = ""
    holdout: int | None = None
    attack: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 of the claim as canonical JSON. Raises RecordError where it holds what JSON cannot say."""
        try:
            return canonical_sha256(self.to_document())
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"A claim must be plain, finite JSON to have a key ({error}); fix its settings."
            ) from None


@dataclass(frozen=True)
class Certificate:
    """One claim and what came out."""

    key: str
    claim: Claim
    full_run: bool
    written: str
    results: dict[str, Any]
    limits: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)  # how p was chosen
    licence: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    seconds: dict[str, Any] = field(default_factory=dict)
    samples_sha256: str = ""
    bounds_sha256: str = ""
    format: int = FORMAT
    kind: str = KIND
    path: Path | None = field(default=None, compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """Which it is and when it was made: what pictures drawn from it bear."""
        return one_line(f"{self.key} {self.written}", 200)

    @property
    def clean_auc(self) -> float:
        """Of the score that is bounded, estimated on the clean images."""
        return float(self.results["clean"]["auc"])

    def at(self, radius: float) -> Mapping[str, Any]:
        """The figures at one of the claim's radii."""
        found: Mapping[str, Any] = self.results["radii"][radius_name(radius)]
        return found

    def to_json(self) -> str:
        """The record as ASCII JSON, with the hash of its content."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("path", "claim")]
        document = finite({name: getattr(self, name) for name in names} | {"claim": self.claim.to_document()})
        document[CONTENT] = content_sha256(document)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Its figures are not yet held against its bounds. Raises RecordError where it is no certificate of this
        format, was changed after it was written or does not belong to its key."""
        try:
            document = json.loads(text, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"it is no JSON ({error}); run the command again.") from None
        claim = check(document)
        known = {f.name for f in dataclasses.fields(cls)} - {"path", "claim"}
        return cls(claim=claim, **{name: value for name, value in document.items() if name in known})


def radius_name(radius: float) -> str:
    """By which a radius is an entry of a table."""
    return repr(float(radius))


_KINDS: dict[str, type] = {
    "key": str,
    "full_run": bool,
    "written": str,
    "results": dict,
    "limits": list,
    "remarks": list,
    "checkpoint": dict,
    "choice": dict,
    "licence": str,
    "environment": dict,
    "command": str,
    "seconds": dict,
    "samples_sha256": str,
    "bounds_sha256": str,
}


def check(document: Any) -> Claim:
    """The claim. Raises RecordError, in the words of the first thing that is wrong."""
    again = "run the command again."
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("format") is True:
        raise RecordError(f"it is no record of the kind {KIND!r}; {again}")
    if document.get("format") != FORMAT:
        raise RecordError(f"it is no certificate of format {FORMAT}; run the command again with this version.")
    limits.check(document)
    if document.get(CONTENT) != content_sha256(document):
        raise ContradictionError(f"its {CONTENT} is not the hash of its content: it was changed by hand; {again}")
    odd = document.keys() - _KINDS.keys() - {"kind", "format", "claim", CONTENT}
    if odd:
        raise RecordError(f"{sorted(map(str, odd))[0]!r:.60} is no entry of a certificate; {again}")
    for name, kind in _KINDS.items():
        if not is_of(document.get(name), kind):
            raise RecordError(f"{name} should be of type {kind.__name__} and is {document.get(name)!r:.60}; {again}")
    if not all(isinstance(text, str) for name in ("limits", "remarks") for text in document[name]):
        raise RecordError(f"limits and remarks should be lists of sentences; {again}")
    claim = Claim.from_document(document.get("claim"), "claim")
    if claim.key != document["key"]:
        raise ContradictionError(f"its key is not the hash of its claim: one of them was changed by hand; {again}")
    if document["full_run"] == bool(document["limits"]):
        raise RecordError(f"full_run says one thing and limits another; {again}")
    _check_claim(claim)
    return claim


def _check_claim(claim: Claim) -> None:
    again, made = "run the command again.", claim.smoothing
    if made.rule not in RULES or made.norm not in NORMS:
        raise RecordError(f"claim.smoothing names no rule or norm of ours ({made.rule!r:.40}); {again}")
    _check_rising("claim.radii", claim.radii)
    if not claim.radii:
        raise RecordError(f"claim.radii should name at least one; {again}")
    is_exact = made.rule == EXACT
    if not (0 < claim.alpha < 1 or (is_exact and claim.alpha == 0)):
        raise RecordError(f"claim.alpha should lie between 0 and 1 and is {claim.alpha!r:.60}; {again}")
    needs: dict[str, tuple[float | None, float]] = (
        {"constant": (made.constant, 0.0)}
        if is_exact
        else {"sigma": (made.sigma, 5e-324), "samples": (float(made.samples), 1.0)}
    )
    if made.rule == "percentile":
        needs["p"] = (made.p if made.p is not None and made.p < 1 else None, 5e-324)
    if made.rule == "exceedance":
        needs["threshold"] = (made.threshold, -_LARGEST * _LARGEST)
    for name, (value, least) in needs.items():
        if value is None or not (math.isfinite(value) and least <= value <= _LARGEST * _LARGEST):
            raise RecordError(f"claim.smoothing.{name} is missing or out of its range; {again}")
    counted = {"claim.subset.normals": claim.subset.normals, "claim.subset.anomalies": claim.subset.anomalies}
    for name, number in (counted | {"claim.image_size": claim.image_size}).items():
        if not 1 <= number <= 10**7:
            raise RecordError(f"{name} should lie between 1 and 10,000,000 and is {number!r:.60}; {again}")
    attacked = claim.attack.get("radii", [])
    _check_rising("claim.attack.radii", attacked)
    if not set(attacked) <= set(claim.radii):
        raise RecordError(f"claim.attack.radii are not among claim.radii; {again}")


def _check_rising(where: str, radii: object) -> None:
    numbers = radii if isinstance(radii, list) and all(is_of(r, float) for r in radii) else None
    if numbers is None or not all(0 <= r <= _LARGEST for r in numbers) or list(numbers) != sorted(set(numbers)):
        raise RecordError(f"{where} should be rising numbers of 0 or more; run the command again.")


def same_score(first: Certificate, second: Certificate) -> bool:
    """Whether both are of the same smoothed detector on the same images, whatever the samples, radii and attack."""
    return _score_key(first.claim) == _score_key(second.claim)


def _score_key(claim: Claim) -> str:
    plain = dataclasses.replace(claim, radii=[], alpha=0.0, attack={}, seed=0)
    made = dataclasses.replace(claim.smoothing, samples=0, asked="")
    return dataclasses.replace(plain, smoothing=made).key


def best_of(certificates: Sequence[Certificate]) -> list[Certificate]:
    """One for each smoothed detector: of several one whose risk is small, of these the one with most samples, of these
    one that was attacked, of these the newest."""
    found: dict[str, Certificate] = {}
    for one in certificates:
        key = _score_key(one.claim)
        other = found.get(key)
        if other is None or _rank(one) > _rank(other):
            found[key] = one
    return list(found.values())


def _rank(one: Certificate) -> tuple[bool, int, int, bool, int, str]:
    """Of several seeds the smallest stands: the luckiest would have to share its alpha with all that were tried."""
    claim = one.claim
    is_usual = claim.alpha <= STRICT_ALPHA
    return is_usual, claim.smoothing.samples, len(claim.radii), bool(claim.attack), -claim.seed, one.written
