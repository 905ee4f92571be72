"""What keeps anomalib's habits from leaking: draws from global random states, and constructors that download."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from detectors.noise import generator


@contextmanager
def own_randomness(seed: int, *purpose: object) -> Iterator[None]:
    """Within it the global random states of torch, NumPy and Python follow from `seed` and `purpose` alone; afterwards
    they are what they were, so nobody else notices."""
    number = int(torch.randint(2**31, (1,), generator=generator(seed, "anomalib", *purpose)))
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def stand_ins(module: Any, **replacements: Any) -> Iterator[None]:
    """Within it the module's names mean something else: a constructor of anomalib then takes our feature extractor
    instead of one that it would download. Only around constructors and fits, never around a score."""
    before = {name: getattr(module, name) for name in replacements}
    try:
        for name, value in replacements.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def quiet(iterable: Any, *_: Any, **__: Any) -> Any:
    """In place of tqdm."""
    return iterable
