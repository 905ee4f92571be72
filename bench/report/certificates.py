"""What certificates say together: boards of those that may be compared, their marks and flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate
from bench.records.certificate import EXACT, PAPER, Certificate, best_of
from bench.records.record import Record, Revisions
from bench.report.marks import MARKS as SIGNS
from bench.report.standing import has_ties
from bench.text import interval_text, norm_text, plural

MARKS = {"partial": "†", "stale": "‡", "ties": SIGNS["ties"], "flagged": "!"}
MEANING = {
    "partial": "less than a full certificate (samples, images, alpha, other settings): its record says what",
    "stale": "made with an older revision of the detector",
    "ties": "bounds of normal and anomalous images tie; the AUC counts a tie as half, and a row's place as lost",
    "flagged": "an attack has found more than the certificate allows: one of the two is wrong",
}

UNCERTIFIED = "the paper's rule, whose claim does not follow: no certificate."


@dataclass(frozen=True)
class Board:
    """Certificates of one category in one norm, on the same test images.

    Attributes:
        title, norm: what they are of.
        rows: the best first, by the certified AUC averaged over radii, ties lost; uncertified ones last.
        radii: of all rows, rising.
        stale: keys of those that an older revision made.
    """

    title: str
    norm: str
    rows: tuple[Certificate, ...]
    stale: frozenset[str] = frozenset()

    @property
    def radii(self) -> tuple[float, ...]:
        return tuple(sorted({radius for row in self.rows for radius in row.claim.radii}))

    def shown_radii(self, most: int) -> tuple[float, ...]:
        """At most so many, evenly chosen, the first and the last among them."""
        radii = self.radii
        if len(radii) <= most:
            return radii
        return tuple(radii[round(n * (len(radii) - 1) / (most - 1))] for n in range(most))

    def marks(self, row: Certificate) -> str:
        """What a reader must know of a row, as signs."""
        found = {
            "partial": not row.full_run,
            "stale": row.key in self.stale,
            "ties": any(_has_ties(row, radius) for radius in row.claim.radii),
            "flagged": bool(flags(row)),
        }
        return "".join(MARKS[name] for name, is_so in found.items() if is_so)

    def notes(self) -> list[str]:
        """Sentences beneath the table."""
        used = {mark for row in self.rows for mark in self.marks(row)}
        found = [f"{mark} {MEANING[name]}." for name, mark in MARKS.items() if mark in used]
        told: dict[str, list[str]] = {}  # rows by what is to be said of them
        for row in self.rows:
            sentences = [*flags(row), *abstentions(row)]
            sentences += [f"p was chosen on {row.choice.get('judged_on')}."] if row.choice else []
            sentences += [attack_text(row)] if row.claim.attack else []
            sentences += [f"{text}." for text in row.remarks if text.startswith("attack within ")]
            sentences += [UNCERTIFIED] if row.claim.smoothing.rule == PAPER else []
            for sentence in sentences:
                told.setdefault(sentence, []).append(label(row))
        everywhere = len([row for row in self.rows if row.claim.smoothing.rule != EXACT])
        for sentence, rows in told.items():
            whose = "All smoothed rows" if len(rows) == everywhere > 1 else "; ".join(rows)
            found.append(f"{whose}: {sentence}")
        return found


def stale_keys(certificates: Iterable[Certificate], revisions: Revisions | None) -> frozenset[str]:
    """Keys of those that an older revision of their detector made."""
    known = (revisions or Revisions()).detectors
    return frozenset(
        one.key for one in certificates if one.claim.detector.revision < known.get(one.claim.detector.name, 0)
    )


def estimate(certificate: Certificate, radius: float, *, ties_lost: bool = False) -> Estimate:
    """The certified AUC at one of its radii; with ties counted as lost, where that is asked for. Where no image could
    be bounded it is 0 whatever the test images, and has no interval (`figure`)."""
    entry = certificate.at(radius)
    if entry["abstained"] == 100:
        return Estimate(*3 * (float(entry["auc"]),))
    names = ("strict_auc", "strict_low", "strict_high") if ties_lost else ("auc", "low", "high")
    return Estimate(*(float(entry[name]) for name in names))


def figure(found: Estimate) -> str:
    """ "62.1 [55.0, 68.7]"; "0.0" of what has no interval."""
    return interval_text(found.value) if found.low == found.high else interval_text(*found)


def attacked(certificate: Certificate) -> list[tuple[float, Estimate]]:
    """Radii and AUCs of the same smoothed detector under attack."""
    found = []
    for radius in certificate.claim.radii:
        entry = certificate.at(radius)
        if entry.get("attacked_auc") is not None:
            values = (float(entry[name]) for name in ("attacked_auc", "attacked_low", "attacked_high"))
            found.append((radius, Estimate(*values)))
    return found


def flags(certificate: Certificate) -> list[str]:
    """Where an attack has found more than the certificate allows, as sentences."""
    found = []
    for radius, under in attacked(certificate):
        entry, certified = certificate.at(radius), estimate(certificate, radius).value
        if entry["crossed"]:
            found.append(
                f"at radius {radius:g} {plural(int(entry['crossed']), 'attacked image')} lie beyond their certified "
                "bounds by more than the noise of both: certificate or attack, one of the two is wrong."
            )
        elif under.value < certified:
            found.append(
                f"at radius {radius:g} the attacked AUC, {under.value:.1f}, lies below the certified one, "
                f"{certified:.1f}: one of the two is wrong, or {certificate.claim.attack.get('judged_on')} samples "
                "judge it too coarsely, for no image is beyond its bounds for sure."
            )
    return found


def abstentions(certificate: Certificate) -> list[str]:
    """At which radii some images could not be bounded, as a sentence."""
    shares = {radius: float(certificate.at(radius)["abstained"]) for radius in certificate.claim.radii}
    some = {radius: share for radius, share in shares.items() if share > 0}
    if not some:
        return []
    told = ", ".join(f"{share:.0f} % at {radius:g}" for radius, share in list(some.items())[:6])
    more = ", ..." if len(some) > 6 else ""
    count = certificate.claim.smoothing.samples
    return [f"{count:,} samples show no bound of {told}{more}: these images count as lost."]


def attack_text(certificate: Certificate) -> str:
    """The attack beside a certificate, as a sentence."""
    attack = certificate.claim.attack
    steps = attack.get("steps") or attack.get("iterations")
    return (
        f"attacked by {attack.get('name')}, {steps} steps through {attack.get('samples')} samples, judged on "
        f"{attack.get('judged_on')} fresh ones: an upper bound."
    )


def label(certificate: Certificate, *, detector: bool = True) -> str:
    """What a row is: "SPADE, sigma 0.1, p 0.5, N 10,000"; "Brightness, exact"; "AE, sigma 0.1, p 0.5, N 100, fit 1"."""
    made, own = certificate.claim.smoothing, certificate.claim.detector
    parts = [own.title or own.name] if detector else []
    if made.rule == EXACT:
        parts.append("exact" if made.norm == "l2" else f"exact in {norm_text(made.norm)}")
    else:
        parts.append(f"sigma {made.sigma:g}")
        names = {"percentile": f"p {made.p:g}" if made.p is not None else "", PAPER: "paper (uncertified)"}
        parts.append(names.get(made.rule, made.rule))
        parts += [f"N {made.samples:,}"] if detector else []
    if detector and certificate.claim.fit_seed:
        parts.append(f"fit {certificate.claim.fit_seed}")
    if detector:
        own_settings = f"--set {own.name}."
        changed = [limit.partition(":")[0] for limit in certificate.limits if limit.startswith(own_settings)]
        parts += [option.removeprefix(own_settings) for option in changed]
    return ", ".join(parts)


def boards(certificates: Sequence[Certificate], revisions: Revisions | None = None) -> list[Board]:
    """Certificates that may be compared, those of l2 first; of the same smoothed detector the best."""
    groups: dict[tuple[object, ...], list[Certificate]] = {}
    for one in best_of(certificates):
        claim = one.claim
        key = (claim.dataset, claim.category, claim.preset, claim.image_size, claim.smoothing.norm)
        groups.setdefault((*key, claim.fingerprint, claim.subset.sha256), []).append(one)
    found = []
    for (dataset, category, preset, size, norm, *_), own in sorted(groups.items(), key=lambda item: str(item[0])):
        subset = own[0].claim.subset
        counts = f"{subset.normals} + {subset.anomalies} test images"
        title = f"Certified AUC ({norm_text(str(norm))}): {dataset}, {category}, preset {preset}, {size} px, {counts}"
        rows = sorted(own, key=lambda c: (c.claim.smoothing.rule == PAPER, -_mean(c), label(c), c.key))
        found.append(Board(title, str(norm), tuple(rows), stale_keys(own, revisions)))
    return found


def base_lines(records: Iterable[Record], like: Certificate) -> dict[str, list[tuple[float, float]]]:
    """By a detector's name: radii and AUCs of the detector itself, without noise, under the l2 attacks that have
    records on these test images; the lowest at each radius, and the clean one at 0."""
    found: dict[str, dict[float, float]] = {}
    claim = like.claim
    for record in records:
        same = (record.dataset, record.category, record.preset, record.image_size, record.subset.sha256)
        if same != (claim.dataset, claim.category, claim.preset, claim.image_size, claim.subset.sha256):
            continue
        if record.norm != "l2" or record.clean is None or record.robust is None:
            continue
        own = found.setdefault(record.detector_name, {})
        for radius, auc in ((0.0, record.clean.auc), (record.epsilon, record.robust.auc)):
            own[radius] = min(own.get(radius, 100.0), auc)
    return {name: sorted(points.items()) for name, points in found.items()}


def _mean(certificate: Certificate) -> float:
    radii = certificate.claim.radii
    return sum(estimate(certificate, radius, ties_lost=True).value for radius in radii) / len(radii)


def _has_ties(certificate: Certificate, radius: float) -> bool:
    return has_ties(estimate(certificate, radius).value, estimate(certificate, radius, ties_lost=True).value)
