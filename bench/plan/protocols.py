"""Protocols: how hard an attack tries and how a verdict is taken. Versioned, and named in every record.

What an attack's settings are to a run is known here alone: what a protocol sets of them, what a user may ask for
instead, and which of it makes another measurement. A run holds no more than what was asked for (`RunConfig`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import BenchError
from bench.names import unknown

if TYPE_CHECKING:
    from detectors.base import Detector

GRADIENTS = ("auto", "score", "surrogate", "map")


class Follows(NamedTuple):
    """Whose gradient is followed of a detector (`Attack.follows`): by a run's attack, and by the protocol's own."""

    run: str
    protocol: str


_FOLLOWED = {
    "score": "the score's",
    "surrogate": "the surrogate's",
    "auto": "the score's and the surrogate's",
    "map": "that of a smooth maximum of the map",
}
# What a user may ask for beside what a protocol sets, and what it is where nobody asks.
UNASKED: Mapping[str, Any] = {
    "step_size": None,
    "random_start": False,
    "restarts": 1,
    "differentiate": "auto",
    "force": False,
}
# Where an option is not called as the setting is.
_OPTIONS = {"differentiate": "--gradient", "mean_draws": "--eot"}
_STANDS_FOR = {"mean_draws": "eot"}  # a setting that an attack has in the place of another one
_TOLD_WITH_THE_ATTACK = ("differentiate", "force")  # often it changes nothing


@dataclass(frozen=True)
class Protocol:
    """One way of measuring robustness.

    Attributes:
        name, version: both go into every record; the version rises whenever figures could change.
        attack_settings: what it sets of an attack that has such settings (`attacks.pgd.PGDSettings`).
        per_class: normal and anomalous test images per category at most, chosen by a hash of their names; None: all.
        verdict_draws: noise draws of a stochastic detector's verdict at least; more where their spread asks for it.
        statement: what a reader must know.
        attacks: those that the statement speaks of; others are described by the record alone.
        default_attacks: what a run attacks with that names none, each on the detectors that it is for.
        needs_its_attacks: whether a run with another attack is none of its own.
        fit_seeds, fit_seeds_for: the fits of each detector where the user asks for none (`RunConfig`); empty: one.
    """

    name: str
    version: int
    attack_settings: Mapping[str, Any]
    per_class: int | None
    verdict_draws: int
    statement: str
    attacks: tuple[str, ...] = ("pgd-linf", "pgd-l2")
    default_attacks: tuple[str, ...] = ("pgd-linf",)
    needs_its_attacks: bool = False
    fit_seeds: tuple[int, ...] = ()
    fit_seeds_for: str = "all"

    @property
    def selection_draws(self) -> int:
        """Noise draws on which iterates are compared."""
        return int(self.attack_settings["selection_draws"])

    def changed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What of the settings that a user asks for is not its own."""
        stand_ins = {eot: self.attack_settings[n] for n, eot in _STANDS_FOR.items() if n in self.attack_settings}
        usual = {**stand_ins, **self.attack_settings, **UNASKED}
        return {name: value for name, value in asked.items() if name not in usual or value != usual[name]}

    def keeps_the_last(self, asked: Mapping[str, Any]) -> bool:
        """Whether the last iterate is kept with these settings, however good another was."""
        return bool(asked.get("keep", self.attack_settings.get("keep")) == "last")

    def stated(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a record. Whose gradient was followed, and what was forced, is told with the attack."""
        return {name: value for name, value in self.changed(asked).items() if name not in _TOLD_WITH_THE_ATTACK}

    def settings(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """What it sets, and what the user changed of it: a number of steps or of draws that the user gives stands for
        both of the protocol's."""
        both = {"stochastic_steps": changed.get("steps"), "eot_last": changed.get("eot")}
        paired = {name: value for name, value in both.items() if value is not None}
        return {**self.attack_settings, **paired, **changed}

    def departures(self, attacks: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
        """Why a run of these attacks with these settings is none of its own whatever the detector, budgets aside; more
        restarts, random starts and the strongest iterate make no attack weaker."""
        others = [name for name in attacks if name not in self.attacks] if self.needs_its_attacks else []
        found = [f"--attack {name}: the protocol attacks with {' and '.join(self.default_attacks)}" for name in others]
        if "step_size" in asked:
            found.append(f"--step-size {asked['step_size']:g}: not the protocol's 2.5 epsilon / steps")
        usual = self.attack_settings.get("keep", "best")
        if asked.get("keep", usual) not in ("best", usual):
            found.append(f"--keep {asked['keep']}: the protocol keeps the {usual} iterate")
        return found

    def departures_on(self, asked: Mapping[str, Any], *, is_stochastic: bool, follows: Follows) -> list[str]:
        """And why it is none on a detector.

        Args:
            asked: the settings.
            is_stochastic: of the detector.
            follows: what the run's attack, and what the protocol's own follows there.
        """
        found = []
        usual = self.attack_settings.get("momentum", 0.0)
        if is_stochastic and asked.get("momentum", usual) != usual:  # more of it is not a stronger attack
            found.append(f"--momentum {asked['momentum']:g}: not the protocol's {usual:g}")
        if follows.run != follows.protocol:
            found.append(f"--gradient {asked.get('differentiate')}: the protocol follows {_FOLLOWED[follows.protocol]}")
        return found


def option(setting: str) -> str:
    """How the command line calls a setting."""
    return _OPTIONS.get(setting, f"--{setting.replace('_', '-')}")


def asked_as(setting: str) -> str:
    """The option by which a user asks for a setting of an attack: an ensemble's `mean_draws` are what `--eot` says."""
    return option(_STANDS_FOR.get(setting, setting))


def fit_seeds_of(detector: type[Detector], seeds: Sequence[int], which: str) -> tuple[int, ...]:
    """Of these seeds those that a detector is fitted with. One whose fit draws nothing has one fit, which is called fit
    0 whatever was asked for: others would be copies of it.

    Args:
        detector: its class.
        seeds: one or more.
        which: "all" detectors whose fit is random get all of them, or only those whose training is "chaotic".
    """
    if not detector.fit_is_seeded:
        return (0,)
    several = tuple(dict.fromkeys(seeds))
    return several[:1] if which == "chaotic" and not detector.training_is_chaotic else several


def fits_asked(protocol: Protocol, detector: type[Detector]) -> int:
    """How many fits of a detector a protocol's figure is the mean of."""
    return len(fit_seeds_of(detector, protocol.fit_seeds or (0,), protocol.fit_seeds_for))


def asked_of(changed: Mapping[str, Any] | None, described: Mapping[str, Any]) -> dict[str, Any]:
    """What a user had asked for, of a record that says what was `changed` of its protocol and how the attack is
    `described`: `stated` does not repeat whose gradient was followed."""
    told = {n: described[n] for n in _TOLD_WITH_THE_ATTACK if described.get(n, UNASKED[n]) != UNASKED[n]}
    return {**told, **(changed or {})}


def taken(known: set[str]) -> set[str]:
    """What a user may ask for of an attack with these settings."""
    return known | {asked for setting, asked in _STANDS_FOR.items() if setting in known}


def as_settings(asked: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """What a user asks for by the names that an attack with these settings has for it: an ensemble's `mean_draws` are
    what `--eot` asks for."""
    names = {asked_for: setting for setting, asked_for in _STANDS_FOR.items() if setting in known}
    return {name if name in known else names.get(name, name): value for name, value in asked.items()}


def idle(asked: Mapping[str, Any], *, has_surrogate: bool, maps: Mapping[str, bool]) -> list[str]:
    """Sentences about what was asked for and changes nothing.

    Args:
        asked: the attacks' settings that the user asked for.
        has_surrogate: whether some detector of the run has one; of the others the surrogate is the score itself.
        maps: which detectors of the run have one; the maximum of a map is another function than a score.
    """
    gradient, follow = asked.get("differentiate"), "their scores' own gradients are followed."
    lacking = sorted(name for name, has_map in maps.items() if not has_map)
    if gradient == "surrogate" and not has_surrogate:
        return [f"No detector of this run declares a surrogate (--bpda, --gradient surrogate): {follow}"]
    if gradient == "map" and lacking:
        some = f"These detectors of this run have no anomaly map (--gradient map): {', '.join(lacking)}; {follow}"
        none = f"No detector of this run has an anomaly map (--gradient map): {follow}"
        return [none if len(lacking) == len(maps) else some]
    return []


def check_asked(asked: Mapping[str, Any]) -> None:
    """Raise BenchError where a user asks for a setting that no attack could have."""
    for name in ("steps", "restarts", "eot"):
        if name in asked and asked[name] < 1:
            raise BenchError(f"{option(name)} must be at least 1; got {asked[name]}.")
    gradient = asked.get("differentiate", "auto")
    if gradient not in GRADIENTS:
        raise BenchError(f"--gradient is one of {', '.join(GRADIENTS)}; got {gradient!r}.")
    momentum, size = asked.get("momentum", 0.0), asked.get("step_size", 1.0)
    if not 0 <= momentum < 1:
        raise BenchError(f"--momentum is a number from 0 to below 1; got {momentum}.")
    if not (math.isfinite(size) and size > 0):
        raise BenchError(f"--step-size is a number above 0 on the [0, 1] pixel scale; got {size}.")


_AUTOATTACKS = ("autoattack-linf", "autoattack-rand-linf", "autoattack-l2", "autoattack-rand-l2")

PROTOCOLS = (
    Protocol(
        "quick",
        5,
        attack_settings={
            "steps": 20,
            "stochastic_steps": 30,
            "eot": 2,
            "eot_last": 6,
            "momentum": 0.9,
            "schedule": "cosine",
            "smooth_map": True,
            "keep": "best",
            "selection_draws": 16,
        },
        per_class=60,
        verdict_draws=10,
        statement="PGD with 20 steps (step size 2.5 epsilon / 20, no random start, strongest iterate); of a stochastic "
        "detector with 30 steps that fall from epsilon / 2 to epsilon / 50, momentum 0.9, gradients averaged over 2 "
        "noise draws at first and 6 at last (120 in all), along a smooth maximum of its anomaly map where the score is "
        "the map's maximum, last iterate unless another is better by more than noise; on "
        "at most 60 normal and 60 anomalous test images per category: an upper bound on the robust AUC, for a random "
        "defence in particular.",
    ),
    Protocol(
        "paper",
        2,
        attack_settings={
            "steps": 40,
            "stochastic_steps": 40,
            "eot": 1,
            "eot_last": 1,
            "momentum": 0.0,
            "schedule": "constant",
            "smooth_map": False,
            "keep": "last",
            "selection_draws": 16,
        },
        per_class=None,
        verdict_draws=10,
        statement="What the paper did, as far as it says: plain PGD, last iterate, all test images. Steps (40) and "
        "step size (2.5 epsilon / 40) are ours: the paper gives neither. Of a random defence this is a weak attack: it "
        "averages no noise.",
    ),
    Protocol(
        "strict",
        1,
        attack_settings={
            "iterations": 100,
            "starts": 5,
            "other_starts": 2,
            "queries": 5000,
            "mean_draws": 20,
            "selection_draws": 16,
        },
        per_class=None,
        verdict_draws=10,
        statement="AutoAttack for a score (docs/attacks.md). Deterministic detectors: APGD of 100 iterations from 5 "
        "starts along the score and from 2 along each other loss, then 5,000 queries of Square. Stochastic ones: PGD "
        "that averages 2,000 gradients along each of what it follows, and APGD with 2,000 along the score. All test "
        "images, fit seeds 0, 1 and 2. The worst found for each image; of a stochastic detector the best found, an "
        "upper bound.",
        attacks=_AUTOATTACKS,
        default_attacks=_AUTOATTACKS[:2],
        needs_its_attacks=True,
        fit_seeds=(0, 1, 2),
    ),
    Protocol(
        "strict-lite",
        1,
        attack_settings={
            "iterations": 50,
            "starts": 2,
            "other_starts": 1,
            "queries": 1000,
            "mean_draws": 5,
            "selection_draws": 16,
        },
        per_class=60,
        verdict_draws=10,
        statement="A smaller AutoAttack for a score, for two cores (docs/attacks.md). Deterministic detectors: APGD of "
        "50 iterations from 2 starts along the score and from 1 along each other loss, then 1,000 queries of Square. "
        "Stochastic ones: PGD that averages 250 gradients along each of what it follows, and APGD with 250 along the "
        "score. At most 60 normal and 60 anomalous test images per category, fit seeds 0, 1 and 2 where training is "
        "chaotic. No figure of the protocol strict.",
        attacks=_AUTOATTACKS,
        default_attacks=_AUTOATTACKS[:2],
        needs_its_attacks=True,
        fit_seeds=(0, 1, 2),
        fit_seeds_for="chaotic",
    ),
)


def get(name: str) -> Protocol:
    """The protocol of that name. Raises UnknownNameError."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise unknown("protocol", name, [p.name for p in PROTOCOLS])
