"""Detectors by name, from this folder and from installed packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import registry
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
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that a package brings these entry points; the registry forgets them afterwards."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

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


def test_two_detectors_with_one_name_are_refused(installed: Any) -> None:
    class Brightness(Outside):  # the same class name as the built-in one, in another module
        name = "brightness"

    registry.names()
    with pytest.raises(ValueError, match="Two detectors call themselves 'brightness'"):
        registry.register(Brightness)
    installed(FakePoint("brightness", Brightness))
    with pytest.raises(ValueError, match="Two detectors"):
        registry.names()


def test_a_broken_package_is_named(installed: Any) -> None:
    installed(FakePoint("broken", ImportError("no module named nothing")))
    with pytest.raises(DetectorError, match=r"'broken'.*package:Thing.*uninstall"):
        registry.names()
    installed(FakePoint("odd", object()))
    with pytest.raises(DetectorError, match=r"'odd'.*no Detector"):
        registry.names()


def test_creating_a_detector_leaves_the_global_random_state_alone() -> None:
    for name in registry.names():
        before = torch.random.get_rng_state()
        registry.create(name, image_size=64)
        assert torch.equal(before, torch.random.get_rng_state()), name
