"""Detectors by name, from this folder and from installed packages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import anomalib_family, registry
from detectors.base import Detector, Progress, Settings
from detectors.brightness import Brightness
from detectors.errors import DetectorError
from detectors.noise import Noise


@dataclass(frozen=True)
class OutsideSettings(Settings):
    power: float = 2.0


class Outside(Detector):
    """What another package might bring."""

    name, title, paper = "outside", "Outside", "none"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> OutsideSettings:
        return OutsideSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None: ...

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        scores: Tensor = x.mean(dim=(1, 2, 3)) ** self.settings.power
        return scores


@dataclass
class FakePoint:
    name: str
    loaded: Any
    value: str = "package:Thing"

    def load(self) -> Any:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that a package brings these entry points; the registry forgets them afterwards."""
    registry.names()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_REFUSED", {})

    def install(*points: FakePoint) -> None:
        def found(*, group: str) -> tuple[FakePoint, ...]:
            return points if group == "radbench.detectors" else ()

        monkeypatch.setattr(registry, "entry_points", found)

    return install


def test_the_folder_is_discovered_and_helpers_are_not() -> None:
    assert {"ae", "brightness", "freerad", "spade"} <= set(registry.names())
    assert list(registry.names()) == sorted(registry.names())
    assert registry.get("brightness") is Brightness


@pytest.mark.parametrize(("typo", "meant"), [("spad", "spade"), ("freerat", "freerad"), ("brigthness", "brightness")])
def test_a_typo_gets_the_nearest_name(typo: str, meant: str) -> None:
    with pytest.raises(DetectorError, match=f"did you mean '{meant}'"):
        registry.get(typo)


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize(("typo", "meant"), [("patchcore", "anomalib:patchcore"), ("PatchCor", "anomalib:patchcore")])
def test_a_members_name_alone_gets_its_familys_whether_or_not_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch, typo: str, meant: str, is_installed: bool
) -> None:
    monkeypatch.setattr(anomalib_family, "is_installed", lambda: is_installed)
    with pytest.raises(DetectorError, match=f"did you mean '{meant}'"):
        registry.get(typo)


def test_a_member_that_is_refused_is_named_and_ours_come_first() -> None:
    with pytest.raises(DetectorError, match="did you mean 'anomalib:winclip'"):
        registry.get("winclip")
    with pytest.raises(DetectorError, match="did you mean 'cfa'"):
        registry.get("cfaa")


def test_settings_can_be_overridden_by_name_alone() -> None:
    assert registry.create("ae", image_size=32, latent=3).settings.latent == 3
    with pytest.raises(DetectorError, match="did you mean 'latent'"):
        registry.create("ae", image_size=32, latnet=3)
    with pytest.raises(DetectorError, match="no setting"):
        registry.create("brightness", anything=1)


def test_a_whole_number_gives_way_to_auto_alone() -> None:
    assert registry.create("freerad", image_size=64, k=50).settings.k == 50
    assert registry.create("freerad", preset="paper", image_size=64, k="auto").settings.k == "auto"
    with pytest.raises(DetectorError, match="'neighbours' is like 5; 'abc' cannot"):
        registry.create("spade", image_size=64, neighbours="abc")


def test_a_family_makes_detectors_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(member: str) -> type[Detector]:
        if member != "spade":
            raise DetectorError(f"There is no halved {member!r}.")
        return Outside

    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    family = registry.Family("halved", lambda: ("spade",), make, "half of another one")
    registry.register_family(family)
    assert registry.get("halved:spade") is Outside
    assert family in registry.families()
    assert "halved:spade" not in registry.names(), "what is made on demand is not part of 'all'"
    with pytest.raises(DetectorError, match=r"no halved 'cow'\.$"):
        registry.get("halved:cow")


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("halvd:spade", "halved:spade"),
        ("halved:spad", "halved:spade"),
        ("halved", "halved:spade"),
        ("halvd:cow", "halved:spade"),
        ("spade:halved", "spade"),
        ("spad", "spade"),
    ],
)
def test_a_typo_in_a_familys_name_gets_the_nearest_name(monkeypatch: pytest.MonkeyPatch, typo: str, meant: str) -> None:
    def make(member: str) -> type[Detector]:
        if member != "spade":
            raise DetectorError(f"There is no halved {member!r}.")
        return Outside

    monkeypatch.setattr(registry, "_FAMILIES", {})
    registry.register_family(registry.Family("halved", lambda: ("spade",), make, "half of another one"))
    with pytest.raises(DetectorError, match=f"[dD]id you mean '{meant}'"):
        registry.get(typo)


def test_a_detector_from_an_installed_package_joins(installed: Any) -> None:
    installed(FakePoint("outside", Outside))
    assert "outside" in registry.names()
    detector = registry.create("outside", image_size=8, power=1.0).fit(torch.rand(3, 3, 8, 8), seed=0)
    assert torch.equal(detector.score(torch.full((1, 3, 8, 8), 0.5)), torch.tensor([0.5]))
    assert "outside" in registry.names(), "asking twice is no duplicate"


class Impostor(Outside):
    name = "brightness"  # as one of ours


class Unwritten(Detector):
    name, title, paper = "unwritten", "Unwritten", "none"


class Nameless(Outside):
    title = ""


class Unspeakable(Outside):
    name = "a,b"


def test_two_detectors_with_one_name_are_refused() -> None:
    registry.names()
    with pytest.raises(ValueError, match="Two detectors call themselves 'brightness'"):
        registry.register(Impostor)


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (ImportError("no module named nothing"), "ImportError: no module named nothing"),
        (SystemExit(0), r"sys\.exit was called: 0"),
        (Impostor, "Two detectors call themselves 'brightness'"),
        (Unwritten, "leaves _fit, _score, settings_for unwritten"),
        (Nameless, "has no title"),
        (Unspeakable, "calls itself 'a,b'"),
        (object(), "is no Detector class"),
        (Settings, "is no Detector class"),
        (ValueError("\x1b[2J" + "x" * 1000), r"ValueError:  \[2Jx{50}"),
    ],
)
def test_a_broken_package_costs_its_own_name_alone_and_one_warning(
    installed: Any, caplog: pytest.LogCaptureFixture, loaded: Any, why: str
) -> None:
    before = registry.names()
    installed(FakePoint("broken", loaded), FakePoint("outside", Outside))
    for _ in range(2):
        assert registry.names() == tuple(sorted([*before, "outside"]))
    (record,) = caplog.records
    assert re.search(rf"'broken' of an installed package \(package:Thing\).*{why}.*uninstall", record.getMessage())
    assert record.getMessage().isprintable() and len(record.getMessage()) < 600
    assert registry.get("brightness") is Brightness
    with pytest.raises(DetectorError, match=why):
        registry.get("broken")


def test_what_a_broken_package_has_registered_before_it_failed_is_forgotten(installed: Any) -> None:
    class Half(FakePoint):
        def load(self) -> Any:
            registry.register(Outside)
            raise ImportError("the rest is missing")

    installed(Half("half", None))
    assert "outside" not in registry.names()


def test_creating_a_detector_leaves_the_global_random_state_alone() -> None:
    for name in registry.names():
        before = torch.random.get_rng_state()
        registry.create(name, image_size=64)
        assert torch.equal(before, torch.random.get_rng_state()), name
