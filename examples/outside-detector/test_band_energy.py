"""The contract, as this package's own CI asks for it: python -m pytest."""

import torch
from band_energy import BandEnergy

from detectors import contract

SIDE = 32


def pictures(count, *, seed):  # (count, 3, SIDE, SIDE) in [0, 1]: grain on a slope
    draws = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0.3, 0.7, SIDE).expand(count, 3, SIDE, SIDE)
    return (slope + 0.03 * torch.randn(slope.shape, generator=draws)).clamp(0, 1)


def scratched(count, *, seed):  # the same, with a bright line
    found = pictures(count, seed=seed)
    found[..., SIDE // 2, :] += 0.2
    return found.clamp(0, 1)


NORMALS = pictures(24, seed=1)
IMAGES, LABELS = torch.cat([pictures(3, seed=2), scratched(3, seed=3)]), [1, 1, 1, -1, -1, -1]


def fitted():
    return BandEnergy(BandEnergy.settings_for("quick", SIDE), SIDE).fit(NORMALS, seed=0)


test_contract = contract.pytest_cases(fitted, IMAGES, LABELS, normals=NORMALS)


def test_it_finds_defects():
    contract.check_floor(fitted(), pictures(24, seed=4), scratched(24, seed=5), floor=95)
