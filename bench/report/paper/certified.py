"""The paper's Table 6 (certified AUC by randomised smoothing), as far as it survived, and our certificates beside it.

Two figures are readable. An empty cell is unreadable, never zero. The paper's rule certifies nothing: from a bound on
P(A(x + d) > h) its Theorem 5.1 concludes on the mean of A(x + d), which can lie on the other side of h.
`certified_render` shows it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as resources

from bench.metrics.intervals import Estimate
from bench.records.certificate import PAPER, Certificate
from bench.records.record import Revisions
from bench.report.certificates import MARKS, MEANING, estimate
from bench.report.paper.claims import Finding, at_least, difference
from bench.report.paper.recipe import PAPER_SIZE
from bench.text import plural
from detectors import registry

TABLE = "table6"
CATEGORIES = ("bottle", "grid", "toothbrush", "wood")
DETECTOR = "freerad"
SIGMA, RADIUS = 0.25, 0.2  # of the surviving figures; the radius at 256 pixels
SAMPLES = {"paper": 10_000, "quick": 1_000}  # by preset
NOTES = (
    "The paper's figures are no certificates: its Theorem 5.1 bounds a mean by what holds for the median alone "
    "(uncertified).",
    "Ours certifies the median at the same radius; --rule paper gives the paper's quantity, marked as uncertified.",
    "The radius of bottle and all other cells of the table, whatever their sigma, are unreadable.",
)
CERTIFIED = 98.2  # on Grid
# Why a certificate is less than a full one, where it is of the table's quantity nevertheless: the recipe says the size
# and the samples, and the others make it one of less.
_LESS = ("--alpha", "--limit")
_OF_THE_RECIPE = ("--samples", "--image-size")


@dataclass(frozen=True)
class CertifiedRow:
    """One cell, in per cent; sigma and radius on [0, 1]. None: unreadable (`paper`, `radius`) or not run (`ours`).
    `status`: what a reader must know of ours, as signs."""

    category: str
    detector: str
    sigma: float
    radius: float | None
    paper: float | None
    ours: Estimate | None = None
    status: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours.value - self.paper


@dataclass(frozen=True)
class CertifiedRecipe:
    """Where the table is measured: by default where the paper measured it.

    Attributes:
        dataset, categories, preset, protocol, image_size: of the certificates.
        per_class: test images of each class at most, the protocol's; None: all.
    """

    dataset: str = "mvtec"
    categories: tuple[str, ...] = CATEGORIES
    preset: str = "paper"
    protocol: str = "paper"
    image_size: int = PAPER_SIZE
    per_class: int | None = None

    @property
    def is_papers(self) -> bool:
        return self.dataset == "mvtec" and set(self.categories) <= set(CATEGORIES)

    @property
    def radius(self) -> float:
        """The paper's, which as an l2 radius scales with the side."""
        return RADIUS * self.image_size / PAPER_SIZE

    @property
    def samples(self) -> int:
        return SAMPLES.get(self.preset, SAMPLES["paper"])

    @property
    def title(self) -> str:
        heading = "Table 6: MVTec AD, certified AUC in l2 at varying sigma"
        if self == CertifiedRecipe():
            return heading
        ours = f"{self.dataset}, preset {self.preset}, {self.image_size} pixels, radius {self.radius:g}"
        return f"{heading}. Ours: {ours}" + ("" if self.is_papers else ", which is not the paper's data")

    @property
    def claim(self) -> str:
        """The table's, with the radius that is judged."""
        claim = f"No l2 perturbation of up to {RADIUS:g} can make FreeRAD's AUC on Grid lower than {CERTIFIED:g}"
        if self.radius == RADIUS:
            return f"{claim} (sigma {SIGMA:g})."
        return f"{claim} (sigma {SIGMA:g}; judged: of up to {self.radius:g}, as far for the side)."

    def commands(self, missing: Iterable[CertifiedRow]) -> list[str]:
        """What runs the cells that are missing: our certificate, and the paper's own quantity from the same samples."""
        rows = list(missing)
        if not rows:
            return []
        root = "" if self.dataset == "elpv" else " --data-root DIR"
        categories, detectors = (
            ",".join(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("category", "detector")
        )
        return [
            f"python -m bench certify --dataset {self.dataset}{root} --categories {categories} --detectors "
            f"{detectors} --sigma {SIGMA:g} --radii 0,{self.radius:g} --samples {self.samples} --preset {self.preset} "
            f"--protocol {self.protocol} --image-size {self.image_size} --rule percentile,paper"
        ]


def rows(
    recipe: CertifiedRecipe | None = None,
    certificates: Iterable[Certificate] = (),
    revisions: Revisions | None = None,
) -> tuple[CertifiedRow, ...]:
    """The table as printed, as far as it is readable, and what our certificates say: of each category a row at the
    sigma of the paper's figures, and one at each other sigma that there is a certificate of.

    Args:
        recipe: where it is measured.
        certificates: whatever there are; those that differ from the recipe are left out (`others` names them).
        revisions: of the code at hand; a certificate of an older detector is marked as stale.
    """
    where, known = recipe or CertifiedRecipe(), revisions or Revisions()
    text = resources("bench.report.paper").joinpath(f"{TABLE}_certified.csv").read_text(encoding="utf-8")
    printed = {line["category"].lower(): line for line in csv.DictReader(text.splitlines())} if where.is_papers else {}
    fitting = [one for one in certificates if _is_of_table(one, where) and not differences(one, where)]
    found = []
    for category in where.categories:
        line = printed.get(category, {})
        auc, radius = _number(line.get("certified_auc")), _number(line.get("radius"))
        shown = where.radius if radius is not None or auc is None else None
        own = [one for one in fitting if one.claim.category == category]
        papers = CertifiedRow(category, DETECTOR, SIGMA, shown, auc)
        sigmas = {one.claim.smoothing.sigma or 0.0 for one in own} - {SIGMA}
        more = [CertifiedRow(category, DETECTOR, sigma, where.radius, None) for sigma in sorted(sigmas)]
        found += [_filled(row, own, where, known) for row in (papers, *more)]
    return tuple(found)


def _filled(
    row: CertifiedRow, own: Sequence[Certificate], where: CertifiedRecipe, revisions: Revisions
) -> CertifiedRow:
    """With what the certificates of its category say: of several a current one, complete, of most samples, of these of
    most images, of these the newest."""
    if row.radius is None:  # there is nothing to stand beside
        return row

    def worth(one: Certificate) -> tuple[bool, bool, int, int, str]:
        claim = one.claim
        images = claim.subset.normals + claim.subset.anomalies
        is_full = not _is_partial(one, where)
        return not _is_stale(one, revisions), is_full, claim.smoothing.samples, images, one.written

    best = max((one for one in own if one.claim.smoothing.sigma == row.sigma), key=worth, default=None)
    if best is None:
        return row
    marks = MARKS["partial"] if _is_partial(best, where) else ""
    marks += MARKS["stale"] if _is_stale(best, revisions) else ""
    (radius,) = (r for r in best.claim.radii if _is_near(r, row.radius))
    return replace(row, ours=estimate(best, radius), status=f" {marks}" if marks else "")


def differences(certificate: Certificate, recipe: CertifiedRecipe) -> tuple[str, ...]:
    """In what a certificate is not of the table's quantity, in the words of options; () where it is of it.

    Of the protocol it depends on nothing but which test images there are: what is certified is no attack's result, and
    an attack beside it has settings of its own. So one of `strict` counts for `paper`, which takes the same images, and
    none of `quick` does.
    """
    claim, made = certificate.claim, certificate.claim.smoothing
    found = [f"--preset {claim.preset}"] if claim.preset != recipe.preset else []
    found += [f"--image-size {claim.image_size}"] if claim.image_size != recipe.image_size else []
    subset = claim.subset
    asked = [n for n in (recipe.per_class, subset.limit) if n is not None]
    if subset.per_class != min(asked, default=None):
        found.append("all test images" if subset.per_class is None else f"{subset.per_class} test images a class")
    if made.rule != "percentile":
        found.append(f"--rule {made.rule}" + (" (uncertified)" if made.rule == PAPER else ""))
    elif made.p != 0.5:
        found.append(f"--p {made.p:g}")
    told = registry.get(DETECTOR).noise_setting
    is_matched = claim.detector.settings.get(told) == made.sigma
    for limit in certificate.limits:
        if is_matched and limit.startswith(f"--set {DETECTOR}.{told}="):
            found.append("--match-noise")
        elif not limit.startswith((*_LESS, *_OF_THE_RECIPE)):
            found.append(limit.partition(":")[0])
    if not any(_is_near(radius, recipe.radius) for radius in claim.radii):
        found.append(f"--radii without {recipe.radius:g}")
    return tuple(found)


def others(certificates: Iterable[Certificate], recipe: CertifiedRecipe | None = None) -> list[str]:
    """Sentences that name the certificates of the table's detector and categories that are not mixed in, and why."""
    where = recipe or CertifiedRecipe()
    groups: dict[tuple[str, ...], list[Certificate]] = {}
    for one in certificates:
        odd = differences(one, where) if _is_of_table(one, where) else ()
        if odd:
            groups.setdefault(odd, []).append(one)
    found = []
    for odd, own in sorted(groups.items()):
        categories = ", ".join(sorted({one.claim.category for one in own}))
        sigmas = ", ".join(f"{sigma:g}" for sigma in sorted({one.claim.smoothing.sigma or 0.0 for one in own}))
        was, is_ = ("was", "is") if len(own) == 1 else ("were", "are")
        found.append(
            f"{plural(len(own), 'certificate')} of {DETECTOR} on {categories} (sigma {sigmas}) {was} made with "
            f"{', '.join(odd)} and {is_} not mixed in."
        )
    return found


def notes(
    found: Iterable[CertifiedRow], certificates: Iterable[Certificate] = (), recipe: CertifiedRecipe | None = None
) -> list[str]:
    """What a reader must know: the signs of the rows, of the paper's figures, and what is not mixed in."""
    used = {mark for row in found for mark in row.status.strip()}
    signs = [f"{mark} {MEANING[name]}." for name, mark in MARKS.items() if mark in used]
    return [*signs, *NOTES, *others(certificates, recipe)]


def missing(found: Iterable[CertifiedRow]) -> list[CertifiedRow]:
    """The cells at the paper's sigma with a radius at which a certificate could stand beside them, and without a
    complete one."""
    return [
        row
        for row in found
        if row.sigma == SIGMA and row.radius is not None and (row.ours is None or MARKS["partial"] in row.status)
    ]


def finding(found: Iterable[CertifiedRow]) -> Finding:
    """Whether the table's claim holds in the measurement, "yes" or "undecided": a certificate is a lower bound, and a
    low one, which shows less than the claim, disproves nothing."""
    of_claim = [row for row in found if (row.category, row.sigma) == ("grid", SIGMA)]
    own = {f"{row.category} certified": row.ours for row in of_claim if row.ours is not None}
    least = Estimate(CERTIFIED, CERTIFIED, CERTIFIED)
    judged = at_least({name: difference(e, least) for name, e in own.items()}, 0.0)
    marks = "".join(dict.fromkeys(mark for row in of_claim for mark in row.status.strip()))
    told = f"{judged.found}; cells marked {marks} count" if marks and judged.found else judged.found
    return Finding("undecided" if judged.holds == "no" else judged.holds, told)


def _is_of_table(one: Certificate, where: CertifiedRecipe) -> bool:
    claim = one.claim
    is_there = claim.dataset == where.dataset and claim.category in where.categories
    return is_there and claim.detector.name == DETECTOR and claim.smoothing.norm == "l2"


def _is_partial(one: Certificate, where: CertifiedRecipe) -> bool:
    return one.claim.smoothing.samples < where.samples or any(limit.startswith(_LESS) for limit in one.limits)


def _is_stale(one: Certificate, revisions: Revisions) -> bool:
    return one.claim.detector.revision < revisions.detectors.get(one.claim.detector.name, 0)


def _is_near(radius: float, other: float) -> bool:
    return abs(radius - other) <= 1e-9


def _number(text: str | None) -> float | None:
    return float(text) if text and text.strip() else None
