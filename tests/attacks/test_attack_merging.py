"""Whose image is kept where several attacks have found one."""

import pytest
import torch
from attack_fakes import SIDE, Fake, Linear, images, labels, source
from torch import Tensor

from attacks import get
from attacks.candidates import STANDARD_ERRORS
from attacks.merging import COMPARISON_DRAWS, is_better
from attacks.objective import Objective
from attacks.result import AttackResult
from detectors.noise import Noise

_OF_THE_COMPARISON = -4  # the number of the common draws, as `attacks.merging` has it


class Leaning(Fake):
    """score = r + z g: red on average and green times noise, so that two images differ by a mean and by a scatter."""

    is_stochastic = True

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        red, green = x[:, 0].mean(dim=(1, 2)), x[:, 1].mean(dim=(1, 2))
        return red + green * noise.normal((), stream="fake", like=x)


def found(images: Tensor, loss: Tensor) -> AttackResult:
    return AttackResult.without_gradients(images, loss, clean_loss=loss, trace=loss[None], forwards=1, enough=None)


@pytest.mark.parametrize("y", [1.0, -1.0])
def test_under_noise_it_must_be_ahead_by_more_than_two_standard_errors_of_the_paired_difference(y: float) -> None:
    """Images that are ahead by so many, in closed form: by d in red and by a fixed lean in green the mean of the paired
    difference is d + lean * mean(z), and its standard error lean * sd(z) / sqrt(draws)."""
    ahead = torch.tensor([3.0, 2.2, 1.8, 1.0, 0.0, -1.0, -3.0], dtype=torch.float64)
    selection = source(len(ahead), purpose="selection")
    known = torch.full((len(ahead), 3, SIDE, SIDE), 0.5, dtype=torch.float64)
    draws = selection.sub(_OF_THE_COMPARISON)
    z = torch.stack([draws.sub(i).normal((), stream="fake", like=known) for i in range(COMPARISON_DRAWS)])
    lean = 0.01
    wanted = ahead * lean * z.std(dim=0) / COMPARISON_DRAWS**0.5 - y * lean * z.mean(dim=0)
    better = known.clone()
    better[:, 0] += y * wanted[:, None, None]
    better[:, 1] += lean
    # What each attack says of itself, from noise of its own, is not what they are compared by.
    said = torch.linspace(-9, 9, len(ahead), dtype=torch.float64)
    sign = torch.full((len(ahead),), y, dtype=torch.float64)
    wins = is_better(Leaning(), sign, known, -said, found(better, said), selection)
    assert wins.tolist() == (ahead > STANDARD_ERRORS).tolist() == [True, True, False, False, False, False, False]


def test_of_a_deterministic_detector_the_higher_loss_is_better_and_nan_is_never() -> None:
    known, loss = (
        torch.tensor([1.0, 1.0, 1.0, torch.nan, torch.nan]),
        torch.tensor([1.1, 1.0, torch.nan, 0.0, torch.nan]),
    )
    wins = is_better(Linear(), labels(5), images(5), known, found(images(5), loss), source(5))
    assert wins.tolist() == [True, False, False, True, False]


def test_an_ensemble_keeps_a_later_members_image_only_where_it_is_significantly_better() -> None:
    detector, x, y = Leaning(), images(24), labels(24)
    attack = get("autoattack-rand-linf", epsilon=0.05, iterations=3, mean_draws=2, selection_draws=4)
    noise, selection = source(24), source(24, purpose="selection")
    whole = attack.run(detector, x, y, noise=noise, selection=selection)
    first, second = (
        member.run(detector, x, y, noise=noise.sub(i), selection=selection)
        for i, member in enumerate(attack.members(detector))
    )
    draws = selection.sub(_OF_THE_COMPARISON)
    losses = [Objective(detector, y).losses(f.images, draws, COMPARISON_DRAWS).double() for f in (first, second)]
    difference = losses[1] - losses[0]
    error = difference.std(dim=0) / COMPARISON_DRAWS**0.5
    ahead = difference.mean(dim=0) / error
    wins = ahead > STANDARD_ERRORS
    assert wins.any() and (ahead < 0).any() and ((ahead > 0) & ~wins).any(), "each case is among these images"
    kept = torch.where(wins[:, None, None, None], second.images, first.images)
    assert torch.equal(whole.images, kept)
