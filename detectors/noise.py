"""Where all of a detector's and an attack's randomness comes from.

A `Noise` names, for every image of a batch, one stream of random numbers. The stream's key is a hash of (seed, purpose,
image id, draw, stream name), so what an image gets does not depend on its batch neighbours, on the order of the images,
on how a batch was split after running out of memory, or on what was drawn before.

The seed is folded into a purpose by a one-way hash (`NoiseSeed.source`): whoever holds the source of one purpose (an
attack) can neither reset nor compute what another purpose (the verdict) will draw.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Filler = Callable[..., Tensor]


@dataclass(frozen=True)
class Noise:
    """Random numbers for the images of one batch.

    Attributes:
        key: 32 secret bytes, one per (seed, purpose).
        image_ids: one id per image of the batch; the same id means the same numbers.
        draw: which of the many independent draws (an int, or a path of ints for nested draws).
    """

    key: bytes
    image_ids: tuple[str, ...]
    draw: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def at(self, *draw: int) -> Noise:
        """The same images under another draw."""
        return replace(self, draw=draw)

    def sub(self, *draw: int) -> Noise:
        """A draw nested inside this one, e.g. the EOT sample of a gradient step."""
        return replace(self, draw=self.draw + draw)

    def pick(self, indices: Sequence[int] | slice) -> Noise:
        """The source for some of the images."""
        if isinstance(indices, slice):
            return replace(self, image_ids=self.image_ids[indices])
        return replace(self, image_ids=tuple(self.image_ids[i] for i in indices))

    def normal(self, shape: Sequence[int], *, stream: str, like: Tensor) -> Tensor:
        """Standard normal numbers, (B, *shape), with the device and dtype of `like`."""
        return self._fill(torch.randn, shape, stream, like)

    def blocks(self, shape: Sequence[int], side: int, *, stream: str, like: Tensor) -> Tensor:
        """Standard normal numbers that are alike within blocks of `side` pixels, (B, *shape); shape is (C, H, W)."""
        channels, *size = shape
        small = self.normal((channels, *(-(-n // side) for n in size)), stream=stream, like=like)
        whole = small.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
        return whole[..., : size[0], : size[1]]

    def uniform(self, shape: Sequence[int], *, stream: str, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1), (B, *shape), with the device and dtype of `like`."""
        return self._fill(torch.rand, shape, stream, like)

    def _fill(self, filler: Filler, shape: Sequence[int], stream: str, like: Tensor) -> Tensor:
        if like.shape[0] != len(self.image_ids):
            raise ValueError(f"The noise source is for {len(self.image_ids)} images, the batch has {like.shape[0]}.")
        # Drawn in float32 on the image's own device and only then cast: float64 checks replay the same numbers.
        rows = [
            filler(tuple(shape), generator=self._generator(image_id, stream, like.device), device=like.device)
            for image_id in self.image_ids
        ]
        return torch.stack(rows).to(like.dtype)

    def _generator(self, image_id: str, stream: str, device: torch.device) -> torch.Generator:
        text = repr((image_id, stream, self.draw))  # quoted: no id can spell another image's stream
        digest = hashlib.sha256(self.key + text.encode()).digest()
        # 63 bits, since manual_seed takes a signed 64-bit integer; PyTorch's generator on the CPU uses the lower 32 of
        # them, so that of n draws n^2 / 2^33 pairs are the same numbers.
        return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class NoiseSeed:
    """The root of a run's randomness; only the runner holds it."""

    seed: int

    def source(self, purpose: str, image_ids: Sequence[str]) -> Noise:
        """The source for one purpose ("attack", "selection", "verdict", "train-map", ...)."""
        key = hashlib.sha256(f"radbench\x1f{self.seed}\x1f{purpose}".encode()).digest()
        return Noise(key, tuple(image_ids))


def fresh(batch_size: int) -> Noise:
    """A source from the operating system's entropy: what `noise=None` means."""
    return Noise(secrets.token_bytes(32), tuple(str(i) for i in range(batch_size)))


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for randomness that is not per image (initial weights, the order of training images)."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
