"""What classes declare of their fits: one that says it draws nothing is fitted once, whatever seeds are asked for."""

from __future__ import annotations

import pytest
import torch

from detectors import registry

UNSEEDED = sorted(name for name in registry.names() if not registry.get(name).fit_is_seeded)


def test_the_declarations_are_these() -> None:
    assert {"brightness", "file-order", "mean-image", "spade"} <= set(UNSEEDED)
    chaotic = {name for name in registry.names() if registry.get(name).training_is_chaotic}
    assert {"ae", "apae", "ocr-gan", "pls", "rae"} <= chaotic


@pytest.mark.parametrize("name", UNSEEDED)
def test_a_fit_that_is_not_seeded_has_the_same_bits_for_every_seed(name: str) -> None:
    normals = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = [f"train/{i:03}.png" for i in range(len(normals))]
    first, second = (
        registry.create(name, image_size=64).fit(normals, seed=seed, names=names).state_dict() for seed in (0, 1)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
