"""The plan of a run: which cells there are. Whatever is wrong with the request is found here, before any fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import attacks
from attacks.base import Attack
from attacks.registry import get_class
from attacks.threat import scaled_l2_epsilon
from bench.data import registry as datasets
from bench.data.base import Dataset
from bench.errors import BenchError
from bench.plan import presets, protocols
from bench.plan.build import build, check_counts
from bench.plan.request import RunConfig, check_overrides
from bench.text import plural
from detectors import registry as detector_registry
from detectors.base import Detector
from detectors.errors import DetectorError

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """What shares a fit, and is not divided among processes: all attacks on one fit of a detector on a category."""

    category: str
    detector: str
    fit_seed: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A checked run: every detector, category and attack of it exists and can be built.

    Attributes:
        run: what the user asked for.
        dataset: opened and validated.
        categories, detectors: in the order in which they are run.
        attacks: with their threat models settled, one for each epsilon.
        image_size: of the one input resolution.
        stochastic: the detectors that draw noise with these settings, in some category.
        follows: whose gradient is followed, by (detector, category).
        built: the unfitted detectors that were built to check the plan, by (detector, category), for whoever only looks
            at one: building a backbone takes a second. To be cleared where their memory is better used.
    """

    run: RunConfig
    dataset: Dataset
    categories: tuple[str, ...]
    detectors: tuple[str, ...]
    attacks: tuple[Attack, ...]
    image_size: int
    stochastic: frozenset[str] = frozenset()
    follows: Mapping[tuple[str, str], protocols.Follows] = field(default_factory=dict)
    built: dict[tuple[str, str], Detector] = field(default_factory=dict, repr=False)

    @property
    def cells(self) -> int:
        return sum(len(self.attacks_on(job.detector)) for job in self.jobs)

    def attacks_on(self, detector: str) -> tuple[Attack, ...]:
        """The attacks of a detector: those that are for its kind."""
        return tuple(a for a in self.attacks if a.is_for(is_stochastic=detector in self.stochastic))

    def warm_from(self, attack: Attack, detector: Detector) -> list[float]:
        """The smaller epsilons of the attack's sweep on a detector, rising; the last one's images are what it starts
        from. Empty where it starts as usual."""
        if not self.run.sweep or not detector.sees_pixels:
            return []
        threat = attack.threat.at(self.image_size)
        return sorted({e for e in self.run.epsilons if 0 < e < threat.epsilon}) if threat.is_ball else []

    @property
    def jobs(self) -> list[Job]:
        """In the order in which they are done."""
        seeds = {name: self.fit_seeds(name) for name in self.detectors}  # milliseconds each: once, not per category
        return [
            Job(category, name, seed) for category in self.categories for name in self.detectors for seed in seeds[name]
        ]

    @property
    def several_fits(self) -> frozenset[str]:
        """The detectors that are fitted with several seeds."""
        return frozenset(name for name in self.detectors if len(self.fit_seeds(name)) > 1)

    def fit_seeds(self, detector: str) -> tuple[int, ...]:
        """The seeds that a detector is fitted with (`protocols.fit_seeds_of`)."""
        run = self.run
        return protocols.fit_seeds_of(
            detector_registry.get(detector), run.fit_seeds or (run.fit_seed,), run.fit_seeds_for
        )

    def at(self, fit_seed: int) -> Plan:
        """The same plan with this seed for every fit."""
        return replace(self, run=replace(self.run, fit_seed=fit_seed, fit_seeds=()))

    @property
    def per_class(self) -> int | None:
        """Test images per class at most: the protocol's, and the user's limit."""
        limits = [n for n in (protocols.get(self.run.protocol).per_class, self.run.limit) if n is not None]
        return min(limits, default=None)

    @property
    def limits(self) -> list[str]:
        """Why this is not a full run of its protocol; empty where it is one. Options that change nothing don't count:
        a record that was made with them is one that a plain run takes over."""
        found = []
        if self.run.limit is not None:
            found.append(f"--limit {self.run.limit}: at most so many training normals, and test images per class")
        found += protocols.get(self.run.protocol).departures(
            [attack.name for attack in self.attacks], self.run.attack_settings
        )
        preset_side = presets.get(self.run.preset).side(self.run.dataset)
        if self.image_size != preset_side:
            found.append(f"--image-size {self.image_size}: the preset's is {preset_side}")
        if self.run.holdout not in (None, presets.get(self.run.preset).holdout):
            found.append(f"--holdout {self.run.holdout}: not the preset's")
        return found

    def limits_of(self, detector: str, category: str) -> list[str]:
        """The same for one detector: what concerns it alone is among them, such as settings that the user changed."""
        found, run, rules = self.limits, self.run, protocols.get(self.run.protocol)
        is_stochastic = detector in self.stochastic
        for attack in self.attacks:
            spent, due = (a.budget(is_stochastic=is_stochastic) for a in (attack, _of_protocol(attack.name, rules)))
            if spent < due:
                asked = set(protocols.as_settings(run.attack_settings, _fields(attack.name)))
                options = " or ".join(protocols.asked_as(s) for s in attack.budget_settings if s in asked)
                found.append(f"{options}: {plural(spent, 'gradient')} for each image, fewer than the protocol's {due}")
                break
        follows = self.follows[detector, category]
        found += rules.departures_on(run.attack_settings, is_stochastic=is_stochastic, follows=follows)
        changed = run.overrides_for(detector, category)
        if changed:
            usual = detector_registry.get(detector).settings_for(run.preset, self.image_size)
            same = [k for k, v in changed.items() if detector_registry.override(usual, {k: v}, owner=detector) == usual]
            changed = {key: value for key, value in changed.items() if key not in same}
        return found + [f"--set {detector}.{name}={value}: not the preset's" for name, value in changed.items()]


def make(run: RunConfig) -> Plan:
    """Check a run and lay it out.

    Raises:
        BenchError, DetectorError, AttackError, WeightsError: with a sentence on what to change.
    """
    preset = presets.get(run.preset)
    names = _resolve(run.detectors, detector_registry.names())
    for name in names:
        detector_registry.get(name)
    attack_names = _resolve(run.attacks, attacks.names())
    dataset = datasets.get(run.dataset, run.data_root, run.reading)
    available = dataset.categories()
    categories = tuple(dict.fromkeys(available if run.categories is None else run.categories))
    if not categories:
        raise BenchError(f"Name at least one category ({', '.join(available)}), or all.")
    for category in categories:
        dataset.check_category(category)
    check_overrides(run.overrides, names, categories)
    if run.sweep and protocols.get(run.protocol).keeps_the_last(run.attack_settings):
        raise BenchError(
            f"--sweep is for attacks that keep their best iterate, and {run.protocol} keeps the last one; leave it "
            "out, or add --keep best."
        )
    run.torch_device()
    image_size = run.image_size or preset.side(run.dataset)
    _check_radii(attack_names, run, image_size)
    made = tuple(a for name in attack_names for a in _attacks(name, run, image_size))
    for category in categories:
        dataset.validate(category)
    built = _built(names, categories, image_size, run)
    names = tuple(dict.fromkeys(name for name, _ in built))
    for category in categories:
        check_counts([built[name, category] for name in names], dataset, category, run)
    stochastic = frozenset(name for (name, _), detector in built.items() if detector.is_stochastic)
    has_surrogate = any(d.has_surrogate or d.surrogate_holds_reconstruction for d in built.values())
    maps = {name: d.has_map for (name, _), d in built.items()}
    for sentence in protocols.idle(run.attack_settings, has_surrogate=has_surrogate, maps=maps):
        log.warning(sentence)
    usual = _of_protocol(attack_names[0], protocols.get(run.protocol))
    _check_kinds(made, built)
    follows = {key: protocols.Follows(made[0].follows(d), usual.follows(d)) for key, d in built.items()}
    return Plan(run, dataset, categories, names, made, image_size, stochastic, follows, built)


def _check_kinds(made: Sequence[Attack], built: Mapping[tuple[str, str], Detector]) -> None:
    """Raise AttackError where a detector is left without an attack, with the sentence of one that is not for it."""
    for detector in built.values():
        if not any(attack.is_for(is_stochastic=detector.is_stochastic) for attack in made):
            made[0].settled(detector)


@dataclass(frozen=True)
class Outline:
    """What another process needs of a plan: all of it can be pickled, and no detector has to be built again."""

    run: RunConfig
    categories: tuple[str, ...]
    detectors: tuple[str, ...]
    image_size: int
    stochastic: frozenset[str]
    follows: Mapping[tuple[str, str], protocols.Follows]

    @classmethod
    def of(cls, plan: Plan) -> Outline:
        """The outline of a plan that `make` has checked."""
        return cls(**{f.name: getattr(plan, f.name) for f in fields(cls)})

    def plan(self) -> Plan:
        """The plan again."""
        run = self.run
        names = _resolve(run.attacks, attacks.names())
        made = tuple(a for name in names for a in _attacks(name, run, self.image_size))
        return Plan(
            run,
            datasets.get(run.dataset, run.data_root, run.reading),
            self.categories,
            self.detectors,
            made,
            self.image_size,
            self.stochastic,
            self.follows,
        )


def _built(
    names: Sequence[str], categories: Sequence[str], image_size: int, run: RunConfig
) -> dict[tuple[str, str], Detector]:
    """Every detector of the plan, unfitted; one that has the same settings in several categories is built once. One of
    another package that cannot be built is left out, where "all" were asked for."""
    built: dict[tuple[str, str], Detector] = {}
    for name in names:
        alike: dict[str, Detector] = {}
        try:
            for category in categories:
                settings = repr(run.overrides_for(name, category))
                if settings not in alike:
                    alike[settings] = build(name, category, image_size, run)
        except (BenchError, DetectorError) as error:
            if run.detectors != ("all",) or detector_registry.is_ours(detector_registry.get(name)):
                raise
            log.warning("%s It is another package's; everything else goes on without it.", error)
            continue
        for category in categories:
            built[name, category] = alike[repr(run.overrides_for(name, category))]
    return built


def _resolve(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        raise BenchError(f"Name at least one of: {', '.join(known)}; or all.")
    return tuple(known) if list(asked) == ["all"] else tuple(dict.fromkeys(asked))


def _check_radii(names: Sequence[str], run: RunConfig, image_size: int) -> None:
    """Refuse radii that can only be a mistake; each would make a robust AUC that means nothing."""
    norms = {get_class(name).norm for name in names}
    lengths = dict.fromkeys(setting for name in names for setting in get_class(name).length_settings)
    if len(norms) > 1 and (run.epsilons or lengths.keys() & run.attack_settings.keys()):
        options = " and ".join(["--epsilon", *map(protocols.option, lengths)])
        raise BenchError(f"{options} belong to one norm; run the attacks of each norm on their own.")
    for epsilon in run.epsilons:
        usual = 2 / 255 if norms == {"linf"} else scaled_l2_epsilon(image_size)
        if (norms == {"linf"} and epsilon >= 1) or (norms == {"l2"} and epsilon > 100 * usual):
            raise BenchError(
                f"epsilon {epsilon:g} looks like a 0-255 value; it is measured on the [0, 1] scale, where {usual:.3g} "
                "is usual: divide it by 255."
            )


def _attacks(name: str, run: RunConfig, image_size: int) -> list[Attack]:
    rules = protocols.get(run.protocol)
    changed = rules.changed(run.attack_settings)
    # Of several attacks each takes what it has; what none has is an error.
    known = {other: protocols.taken(_fields(other)) for other in _resolve(run.attacks, attacks.names())}
    for setting in changed:
        if not any(setting in of_attack for of_attack in known.values()):
            others = [other for other in attacks.names() if setting in protocols.taken(_fields(other))]
            raise BenchError(
                f"{protocols.option(setting)} is for {', '.join(others)}, and this run attacks with "
                f"{' and '.join(known)}; leave it out, or name another --attack."
            )
    mine = {setting: value for setting, value in changed.items() if setting in known[name]}
    settings = settings_of(name, rules, protocols.as_settings(mine, _fields(name)))
    # Of a sweep the smallest first: each starts from the one before.
    asked = sorted(set(run.epsilons)) if run.sweep else dict.fromkeys(run.epsilons)
    radii: list[float | None] = [*asked] or [None]
    return [attacks.get(name, image_size=image_size, epsilon=epsilon, **settings) for epsilon in radii]


def settings_of(name: str, rules: protocols.Protocol, changed: Mapping[str, Any]) -> dict[str, Any]:
    """What an attack gets: the protocol's settings, as far as it has them, and what the user changed. That it cannot do
    what the user asks for is an error, which the attack raises."""
    return _known(name, rules.settings(changed)) | dict(changed)


def _known(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """An attack without steps takes none from the protocol."""
    return {key: value for key, value in settings.items() if key in _fields(name)}


def _fields(name: str) -> set[str]:
    return {f.name for f in fields(get_class(name).settings_class)}


def _of_protocol(name: str, rules: protocols.Protocol) -> Attack:
    return attacks.get(name, **_known(name, rules.attack_settings))
