"""Settings that no machine could have, and images and scores that are none: sentences, before memory is spent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import Fake, FakeSettings

import attacks
from attacks.errors import AttackError
from detectors import contract, registry
from detectors.building import LARGEST, build
from detectors.errors import ContractError, DetectorError
from detectors.noise import Noise

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def fitted(cls: type[Fake] = Fake) -> Fake:
    return cls(FakeSettings(), 16).fit(IMAGES, seed=0)


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["channels", "latent"])
def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(setting: str) -> None:
    with pytest.raises(DetectorError, match=r"ae would have more than 4 GiB of weights|ae cannot be built"):
        registry.create("ae", image_size=32, **{setting: 100_000_000})


def test_weights_are_added_up_and_refused_before_they_are_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.building.LARGEST", 1 << 20)
    made = []

    class Wide(Fake):
        def __init__(self, settings: FakeSettings, image_size: int) -> None:
            super().__init__(settings, image_size)
            for _ in range(100):
                made.append(nn.Linear(256, 256))  # a quarter of a MiB

    with pytest.raises(DetectorError, match="choose smaller ones"):
        build(Wide, FakeSettings(), 16)
    assert len(made) == 3
    assert LARGEST > 1 << 30


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("ae", {"work_size": 1 << 20}, r"ae\.work_size is 1048576 pixels; it must be 4096 at most"),
        ("spade", {"input_size": 100_000}, r"spade\.input_size"),
        ("purify:ae", {"inner.work_size": 1 << 20}, r"purify:ae\.inner\.work_size"),
        ("ae", {"levels": 10**9}, r"levels must lie in 1\.\.12"),
        ("freerad", {"k": 10**9}, "k must lie in"),
        ("freerad", {"schedule.steps": 10**8}, r"schedule\.steps must lie in"),
    ],
)
def test_a_setting_beyond_reason_is_refused_by_its_name(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        registry.create(name, image_size=32, **settings)


@pytest.mark.parametrize("side", [0, -3, 100_000])
def test_pictures_of_no_size_and_of_any_size_are_refused(side: int) -> None:
    with pytest.raises(DetectorError, match="1 to 4096 are possible"):
        Fake(FakeSettings(), side)


def test_a_batch_larger_than_all_images_is_all_of_them() -> None:
    assert registry.create("ae", image_size=32, epochs=1, batch_size=10**9).fit(torch.rand(8, 3, 32, 32), seed=0)


# -- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.numpy(), "got ndarray; see torch.from_numpy"),
        ([IMAGES], "got list"),
        (IMAGES * 255, "go from .* divide by 255"),
        (IMAGES * 2 - 1, "undo the normalisation"),
        (torch.full_like(IMAGES, torch.inf), r"\[0, 1\]"),
        ((IMAGES * 255).byte(), "divide bytes by 255"),
        (IMAGES.half(), "float32 or float64"),
        (IMAGES.permute(0, 2, 3, 1), r"x\.permute\(0, 3, 1, 2\)"),
        (IMAGES[0], r"x\[None\]"),
        (IMAGES[0].permute(1, 2, 0), r"x\.permute\(2, 0, 1\)\[None\]"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_with_what_to_do(images: Any, words: str) -> None:
    detector = fitted()
    for call in (detector.score, detector.surrogate_score):
        with pytest.raises(DetectorError, match=words):
            call(images)
    with pytest.raises(DetectorError):
        fitted().fit(images, seed=0)
    with pytest.raises(AttackError):
        attacks.get("pgd-linf", steps=1)(fitted(), images, torch.ones(4))


def test_rounding_beyond_the_range_is_let_in_and_an_attack_asks_once() -> None:
    detector = fitted()
    detector.score(IMAGES.clamp(0, 1) * (1 + 1e-6))
    with detector.trusting():
        detector.score(IMAGES * 255)
    with pytest.raises(DetectorError):
        detector.score(IMAGES * 255)


def test_labels_and_images_of_numpy_are_refused_by_attacks_and_the_contract() -> None:
    with pytest.raises(AttackError, match=r"see torch\.as_tensor"):
        attacks.get("pgd-linf", steps=1)(fitted(), IMAGES, np.ones(4))
    with pytest.raises(DetectorError, match="ndarray"):
        contract.check(fitted(), IMAGES.numpy(), [1, 1, -1, -1])


# -- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda x: x.mean(dim=(1, 2, 3)).detach().numpy(), "ndarray"),
        (lambda x: float(x.mean()), "float"),
        (lambda x: x.mean(), r"a tensor of shape \(\)"),
        (lambda x: x.mean(dim=(1, 2, 3))[:, None], r"a tensor of shape \(4, 1\)"),
        (lambda x: None, "NoneType"),
        (lambda x: list(x.mean(dim=(1, 2, 3))), "list"),
    ],
)
def test_a_method_that_returns_no_number_per_image_hears_what_to_return(returned: Any, what: str) -> None:
    class Odd(Fake):
        has_map = has_reconstruction = True

        def _score(self, x: Tensor, noise: Noise) -> Tensor:
            found: Tensor = returned(x)
            return found

        _anomaly_map = _reconstruct = _score

    detector = fitted(Odd)
    for call in (detector.score, detector.surrogate_score):
        with pytest.raises(ContractError, match=rf"is {what}; return one number per image, a tensor of shape \(4,\)"):
            call(IMAGES)
    if "tensor" not in what:
        for call in (detector.anomaly_map, detector.reconstruct):
            with pytest.raises(ContractError, match=f"is {what}; return a tensor"):
                call(IMAGES)
    with pytest.raises(ContractError, match="one number per image"):
        contract.check(detector, IMAGES, [1, 1, -1, -1])


# -- lengths ----------------------------------------------------------------------------------------------------------


def test_a_length_may_be_written_as_on_the_command_line() -> None:
    text = attacks.get("pgd-linf", epsilon="2/255", step_size="1/255", steps=2)
    number = attacks.get("pgd-linf", epsilon=2 / 255, step_size=1 / 255, steps=2)
    assert (
        text.describe()
        == number.describe()
        == attacks.get("pgd-linf", epsilon=np.float64(2 / 255), step_size=1 / 255, steps=2).describe()
    )


@pytest.mark.parametrize("epsilon", ["two", [2 / 255], True, 10**400, "2", "-1/255", complex(1), torch.ones(2)])
def test_what_is_no_length_is_a_sentence(epsilon: Any) -> None:
    for length in ({"epsilon": epsilon}, {"step_size": epsilon}):
        with pytest.raises(AttackError, match=r"[.)]$"):
            attacks.get("pgd-linf", **length)
