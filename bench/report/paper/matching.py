"""Which records fill a line of a table of the paper: those of its detector, settings and attack, the best of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from bench.records.record import Record, Revisions, is_stale
from bench.report.fits import fit_seed
from bench.report.paper.arms import Arm, Threat, option
from bench.report.paper.recipe import PAPER_STEPS, Recipe
from bench.text import plural

K = TypeVar("K", bound=Hashable)
_WITH_BPDA = ("apae", "freerad")  # of the paper's detectors: which have another gradient to follow


def fits(record: Record, category: str, arm: Arm, recipe: Recipe, epsilon: float) -> bool:
    """Whether a record is of an arm: of its detector with the settings in which the table's arms differ, under its
    attack. Of an arm that is about clean images alone, under any attack."""
    threat, settings = arm.threat, dict(arm.settings)
    if (record.category, record.detector_name) != (category, arm.detector):
        return False
    where = (record.dataset, record.preset, record.image_size, record.protocol)
    if where != (recipe.dataset, recipe.preset, recipe.image_size, recipe.protocol_of(threat)):
        return False
    of_record = record.detector.settings
    if any(of_record.get(name) != value for name, value in settings.items()):
        return False
    if _is_another_detector(record, arm):
        return False
    return epsilon == 0 or (_in_ball(record, threat, epsilon) and _as_asked(record, arm))


def _is_another_detector(record: Record, arm: Arm) -> bool:
    """Whether settings were changed that the arm leaves as they are. A shorter training is the same detector, less
    trained: such a record is shown as less than a full run."""
    start = f"--set {arm.detector}."
    changed = {str(told).removeprefix(start).split("=")[0] for told in record.limits if str(told).startswith(start)}
    return any(not name.startswith("training.") for name in changed - dict(arm.settings).keys())


def _in_ball(record: Record, threat: Threat, epsilon: float) -> bool:
    # An epsilon typed as a decimal is meant as well as 2/255.
    is_near = abs(record.epsilon - epsilon) <= 1e-6 * epsilon
    return (record.attack_name, record.norm) == (threat.attack, threat.norm) and is_near


def _as_asked(record: Record, arm: Arm) -> bool:
    """Whether the attack had the settings that the arm asks for, beside these the protocol's own, and began where the
    protocol's begins: not, as that of a sweep does, at what was found in a smaller ball."""
    asked, attack, changed = arm.threat.asked, record.attack.settings, record.cell.protocol.changed or {}
    if record.attack.warm_from:
        return False
    follows = asked.pop("differentiate", None)
    if follows is not None:
        follows = "score" if arm.threat.bpda and arm.detector not in _WITH_BPDA else follows
        if attack.get("differentiate") != follows:
            return False
    elif _has(record, "--gradient"):
        return False
    return all(attack.get(name) == value for name, value in asked.items()) and not changed.keys() - asked.keys()


def _has(record: Record, limit: str) -> bool:
    return any(str(told).startswith(limit) for told in record.limits)


def is_partial(record: Record, arm: Arm, recipe: Recipe) -> bool:
    """Whether it is less than a full run by more than what the arm asks for."""
    if record.full_run:
        return False
    asked = [*map(option, arm.threat.asked), *(f"--set {arm.detector}.{name}=" for name, _ in arm.settings)]
    asked += [f"--image-size {recipe.image_size}:", *(["--holdout"] if recipe.holdout is not None else [])]
    asked += [f"--limit {recipe.limit}:"] if recipe.limit is not None else []
    return not record.limits or not all(any(str(told).startswith(a) for a in asked) for told in record.limits)


def _worth(record: Record, revisions: Revisions, arm: Arm, recipe: Recipe) -> tuple[bool, bool, bool, bool]:
    """Which of several fitting records are shown: current, successful, complete, at the protocol's 40 steps and step
    size 2.5 epsilon / steps."""
    settings = record.attack.settings
    steps, size = settings.get("steps"), settings.get("step_size")
    expected = 2.5 * record.epsilon / PAPER_STEPS
    usual = steps == PAPER_STEPS and isinstance(size, float) and abs(size - expected) <= 1e-6 * expected
    return (not is_stale(record, revisions), record.ok, not is_partial(record, arm, recipe), usual)


def chosen_by_itself(record: Record) -> int | None:
    """The value of the setting that the fit has chosen; None where it chose none, or the record does not say."""
    found = record.checkpoint.get("chosen")
    value = found.get("value") if isinstance(found, dict) else None
    return value if isinstance(value, int) else None


def machine(record: Record) -> str:
    """What measured its seconds, in words."""
    told = record.environment
    device, threads = str(told.get("device", "an unknown device")), told.get("threads")
    shared = plural(threads, "thread") if isinstance(threads, int) else "an unknown number of threads"
    return device if device != "cpu" else f"{told.get('cpu', 'an unknown processor')}, {shared}"


def of_one_machine(by_arm: Mapping[K, Mapping[int, Record]]) -> dict[K, dict[int, Record]]:
    """The same records, of the machine alone that timed most of these arms (of several, the one with the newest):
    seconds of different machines would make a growth that is none."""
    counted: dict[str, tuple[int, str]] = {}
    for found in by_arm.values():
        for one in {machine(record) for record in found.values()}:
            arms, newest = counted.get(one, (0, ""))
            written = max(r.written for r in found.values() if machine(r) == one)
            counted[one] = (arms + 1, max(newest, written))
    chosen = max(counted, key=lambda one: counted[one], default=None)
    return {key: {seed: r for seed, r in found.items() if machine(r) == chosen} for key, found in by_arm.items()}


def of_common_fits(by_arm: Mapping[K, Mapping[int, Record]]) -> dict[K, dict[int, Record]]:
    """The same records, of those fits alone that every arm of which there is any has, if there are some: a mean over
    three fits beside one of these fits would differ by luck."""
    seeds = [set(found) for found in by_arm.values() if found]
    common = set.intersection(*seeds) if seeds else set()
    if not common:
        return {key: dict(found) for key, found in by_arm.items()}
    return {key: {seed: r for seed, r in found.items() if seed in common} for key, found in by_arm.items()}


def best_of_each_fit(records: Sequence[Record], revisions: Revisions, arm: Arm, recipe: Recipe) -> dict[int, Record]:
    """One record for each fit seed, over which the mean is taken: of those that are worth most, the newest."""
    most = max((_worth(r, revisions, arm, recipe) for r in records), default=None)
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: r.written):
        if _worth(record, revisions, arm, recipe) == most:
            by_seed[fit_seed(record)] = record
    return dict(sorted(by_seed.items()))
