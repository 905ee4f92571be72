"""Plain noise beside an attack: what follows a gradient beats it, what follows nothing does not."""

from __future__ import annotations

import dataclasses

import bench_fakes as fakes
import pytest
import torch
import zoo
from fake_records import make_record
from torch import Tensor

import attacks
from attacks.threat import L2, LInf, ThreatModel
from bench.cell.plain_noise import DRAWS, noise_won
from bench.report.caveats import failure_flags
from bench.report.signs import GAIN_SHARE, NOISE_WON_SHARE
from detectors.base import Detector
from detectors.contract.ball import BLOCKS, block_noise, rose
from detectors.noise import Noise, NoiseSeed

SIDE = 32
IMAGES = fakes.image_set(10, 10, side=SIDE)
X, Y = IMAGES.pixels(), IMAGES.labels.float()
BALLS = {"linf": LInf(2 / 255), "l2": L2(0.1)}


def source(purpose: str, seed: int = 0) -> Noise:
    return NoiseSeed(seed).source(purpose, IMAGES.ids)


def attacked(detector: Detector, threat: ThreatModel) -> attacks.AttackResult:
    attack = attacks.get(f"pgd-{threat.norm}", image_size=SIDE, epsilon=threat.epsilon, steps=20)
    return attack.run(detector, X, Y, noise=source("attack"), selection=source("selection"))


def share(detector: Detector, threat: ThreatModel, images: Tensor | None = None) -> float:
    found = attacked(detector, threat).images if images is None else images
    return float(noise_won(detector, threat, X, Y, found, source("plain-noise")).double().mean())


class Smooth(fakes.Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return zoo.honest(x)


class Blurred(fakes.Noisy):
    """Draws noise that plays a part in its gradient."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return zoo.honest(x + 0.3 * noise.normal(x.shape[1:], stream="blur", like=x))


@pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
def test_noise_of_full_length_lies_in_the_ball_in_blocks(threat: ThreatModel) -> None:
    for block in BLOCKS:
        change = block_noise(X, threat, block, source("plain-noise"))
        torch.testing.assert_close(threat.distance(X + change, X), torch.full((len(X),), threat.epsilon))
        corner = change[..., :block, :block]
        assert torch.equal(corner, corner[..., :1, :1].expand_as(corner))
        assert not torch.equal(change[..., 0, 0], change[..., block, 0])
        assert torch.equal(change, block_noise(X, threat, block, source("plain-noise")))
    odd = block_noise(X[..., :30, :30], threat, 8, source("plain-noise"))  # blocks are cut at the edge
    assert odd.shape == (len(X), 3, 30, 30)


@pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
@pytest.mark.parametrize("honest", [fakes.Fake, fakes.Linear, Smooth, fakes.Noisy, Blurred])
def test_an_attack_that_follows_a_true_gradient_is_never_beaten(honest: type[fakes.Fake], threat: ThreatModel) -> None:
    assert share(fakes.fitted(honest, SIDE), threat) == 0


@pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
@pytest.mark.parametrize("detector", [fakes.Fake, Blurred])
def test_noise_beats_an_attack_that_did_nothing(detector: type[fakes.Fake], threat: ThreatModel) -> None:
    assert share(fakes.fitted(detector, SIDE), threat, X) > 0.6


def test_noise_beats_the_attack_on_stairs_whatever_the_gate_says() -> None:
    for levels in (12, 64):
        lost = share(fakes.fitted(type("Flat", (Stairs,), {"levels": levels}), SIDE), BALLS["linf"])
        assert lost > 3 * NOISE_WON_SHARE


class Stairs(fakes.Fake):
    """As `zoo.grey_levels`, with what its gradient says turned against what the score does."""

    levels = 12

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        rounded = (x * (self.levels - 1)).round() / (self.levels - 1)
        return zoo.honest(rounded) - zoo.LEAK * zoo.brightness(x)


def test_a_score_that_ignores_the_image_is_beaten_by_nothing() -> None:
    """Lucky draws are no success: noise and attack meet the same ones."""
    for idle in (fakes.PureNoise, zoo.Blind):
        assert share(fakes.fitted(idle, SIDE), BALLS["linf"], X) == 0


class Lottery(fakes.Noisy):
    """Every draw looks in another direction, so no change of the image is better than another."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (x * noise.normal(x.shape[1:], stream="ticket", like=x)).mean(dim=(1, 2, 3))


def test_luck_passes_for_a_success_on_one_image_in_twenty() -> None:
    """Under Student's t with two degrees of freedom, P(t > 3) = 0.048; the best of six draws must not help."""
    detector, threat = fakes.fitted(Lottery, SIDE), BALLS["linf"]
    lucky = torch.cat([noise_won(detector, threat, X, Y, X, source("plain-noise", seed)) for seed in range(20)])
    assert float(lucky.double().mean()) == pytest.approx(0.048, abs=0.035)  # of 400: three standard errors


def test_it_asks_seven_or_twelve_times() -> None:
    for detector, passes in ((fakes.Fake, 1 + 2 * len(BLOCKS)), (fakes.Noisy, 2 * len(BLOCKS) + 2 * DRAWS)):
        made = fakes.fitted(detector, SIDE)
        detector.scores = 0
        noise_won(made, BALLS["linf"], X, Y, X, source("plain-noise"))
        assert detector.scores == passes * len(X)


def test_a_score_that_is_no_number_is_no_success() -> None:
    class Nan(fakes.Fake):
        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return x.mean(dim=(1, 2, 3)) * float("nan")

    assert share(fakes.fitted(Nan, SIDE), BALLS["linf"], X) == 0


def test_rounding_is_no_rise() -> None:
    before = torch.tensor([1e3, 1e3, 0.0, float("nan")])
    after = before + torch.tensor([1e-4, 1e-1, 1e-9, 1.0])
    assert rose(before, after).tolist() == [False, True, True, False]


@pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
def test_an_attack_gains_on_every_image_of_an_honest_detector(threat: ThreatModel) -> None:
    for honest in (fakes.Fake, Smooth):
        found = attacked(fakes.fitted(honest, SIDE), threat)
        assert bool(rose(found.clean_loss, found.best_loss).all())


def test_a_record_is_flagged_where_noise_won_or_nothing_was_gained() -> None:
    def flags(**indicators: float | None) -> list[str]:
        return failure_flags(make_record(indicators=indicators))

    assert flags(noise_won_share=NOISE_WON_SHARE, gain_share=GAIN_SHARE) == flags(gain_share=None) == []
    (flag,) = flags(noise_won_share=0.7, gain_share=1.0)
    assert flag == "plain noise of the attack's size did more than the attack on 70 % of the images"
    (flag,) = flags(noise_won_share=0.0, gain_share=0.0)
    assert flag == "the attack gained nothing on 100 % of the images"


def test_of_a_stochastic_detector_a_gain_on_half_of_the_images_is_chance() -> None:
    def flags(share: float) -> list[str]:
        record = make_record(indicators={"gain_share": share})
        detector = dataclasses.replace(record.detector, is_stochastic=True)
        return failure_flags(dataclasses.replace(record, cell=dataclasses.replace(record.cell, detector=detector)))

    assert flags(0.55) == ["the attack gained nothing on 45 % of the images"] and flags(0.8) == []
