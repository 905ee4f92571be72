"""Scores of images under Gaussian noise, kept in the cache while they are drawn.

Sample i of an image depends on the image and on its own source of noise alone, so whatever has been drawn stays of use:
a run that was killed goes on, one that asks for more samples draws the rest, other radii, rules and percentiles need
none. A set lies in a folder that is named by the hash of all that its scores depend on, in pieces of some samples each:

    samples/DETECTOR/KEY/0-312.safetensors, 312-624.safetensors, ...; begun-624-625.safetensors

Each is written atomically with its hash beside it (`detectors.checkpoint`), about every ten seconds, and many are
joined into one. Of samples that take longer the images that are done are kept meanwhile ("begun"). A damaged piece is
drawn again. A stranger's code can change without a word (`bench.cell.known_code`), so of that nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import files
from bench.cell.known_code import source_of
from bench.cell.memory import Batches
from bench.data.base import Dataset
from bench.errors import CellError
from bench.records.score_table import ids_sha256
from detectors import checkpoint
from detectors.base import Detector
from detectors.errors import CheckpointError
from detectors.noise import Noise, NoiseSeed
from detectors.settings import described
from detectors.smooth import noisy_scores

log = logging.getLogger(__name__)
SECONDS = 10.0  # of work between two pieces: what a kill costs
LARGEST_PIECE = 4096  # samples
MOST_PIECES = 64  # before they are joined
PURPOSE = "certificate"
REVISION = 1  # of how samples are drawn
_BEGUN = "begun-"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images to draw samples of.

    Attributes:
        name: "test", "held-out" or "painted": what was made of the category's files, which a seed may decide.
        ids: their names.
        pixels: of a slice of them, float (B, 3, S, S) in [0, 1].
        purpose, path: what names their noise: samples of an attacked image are none that its attack has seen.
    """

    name: str
    ids: tuple[str, ...]
    pixels: Callable[[slice], Tensor]
    purpose: str = PURPOSE
    path: tuple[int, ...] = ()


def dependencies(
    detector: Detector,
    tensors_sha256: str,
    dataset: Dataset,
    category: str,
    name: str,
    ids: Sequence[str],
    *,
    sigma: float,
    seed: int,
) -> dict[str, Any]:
    """Everything that samples of these images depend on."""
    source = source_of(detector)
    return {
        "revision": REVISION,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint(category),
        "category": category,
        "pictures": name,
        "ids_sha256": ids_sha256(ids),
        "image_size": detector.image_size,
        "detector": detector.name,
        "detector_revision": detector.revision,
        "settings": described(detector.settings),
        "frozen": detector.frozen_hashes(),
        "tensors_sha256": tensors_sha256,
        "sigma": sigma,
        "seed": seed,
    } | ({"source": source} if source else {})


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The samples of some images, as far as they are there.

    Attributes:
        cache: where they are kept; None keeps them in memory alone.
        depends: what they depend on (`dependencies`).
        images: how many there are.
    """

    cache: Path | None
    depends: dict[str, Any]
    images: int
    _held: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.depends, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        name = str(self.depends["detector"]).replace(":", "-")
        return (self.cache or Path()) / "samples" / name / self.key[:24]

    def known(self, count: int) -> int:
        """How many of the first `count` samples are there."""
        return count - sum(stop - start for start, stop in _missing(self._pieces(), count))

    def read(self, count: int) -> Floats:
        """The first `count` samples of each image, sorted, (M, count). Raises CellError where some are missing."""
        rows = torch.full((count, self.images), torch.nan, dtype=torch.float64)
        for start, piece in self._pieces().items():
            part = piece[: max(count - start, 0)]
            rows[start : start + len(part)] = part
        if bool(rows.isnan().any()):
            raise CellError(f"Samples are missing from {self.folder}; run the same command again: it draws them.")
        return np.sort(rows.numpy().T, axis=1)

    def draw(
        self,
        detector: Detector,
        pictures: Pictures,
        count: int,
        *,
        batch_size: int,
        device: torch.device,
        tick: Callable[[float, str], None],
    ) -> Floats:
        """Draw what is missing of the first `count` samples; returns them as `read` does.

        Args:
            detector: fitted, on the device.
            pictures: the images.
            count: of samples of each.
            batch_size: images at a time; changes rounding at most. It is halved when memory runs out.
            device: to compute on.
            tick: told how many samples of all images are done, those of earlier runs included.

        Raises:
            CellError: scores that are NaN.
            DiskError: the disk refuses.
        """
        missing = _missing(self._pieces(), count)
        tick(count - sum(stop - start for start, stop in missing), "")
        at_once, written, batches = 1, len(list(self._paths())), Batches(batch_size)
        for start, stop in missing:
            while start < stop:
                numbers = range(start, min(start + at_once, stop))
                began = time.monotonic()
                self._write(numbers, self._scores(detector, pictures, numbers, batches, device))
                each = max(time.monotonic() - began, 1e-6) / len(numbers)
                at_once = max(1, min(int(SECONDS / each), LARGEST_PIECE))
                tick(len(numbers), "")
                start, written = numbers.stop, written + 1
                if written > MOST_PIECES:
                    written = self._join()
        self._join()
        return self.read(count)

    def _scores(
        self, detector: Detector, pictures: Pictures, numbers: range, batches: Batches, device: torch.device
    ) -> Tensor:
        """Some samples of all images, (len(numbers), M); of those that take long what is done is kept meanwhile."""
        source = NoiseSeed(int(self.depends["seed"])).source(pictures.purpose, pictures.ids)
        source = source.at(*pictures.path) if pictures.path else source
        sigma = float(self.depends["sigma"])

        def some(part: list[int]) -> Tensor:
            own = slice(part[0], part[-1] + 1)
            x = pictures.pixels(own).to(device)
            return scores_under_noise(detector, x, source.pick(own), sigma=sigma, samples=numbers)

        found = self._begun(numbers)
        kept = time.monotonic()
        for scores in batches.of(range(found.shape[1], self.images), some):
            found = torch.cat([found, scores], dim=1)
            if time.monotonic() - kept >= SECONDS and found.shape[1] < self.images:
                self._write(numbers, found)
                kept = time.monotonic()
        return found

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _pieces(self) -> dict[int, Tensor]:
        """Those that count, by their first sample, in order; overlaps are cut off."""
        if self.cache is None:
            return dict(sorted(self._held.items()))
        found: dict[int, Tensor] = {}
        end = 0
        for start, stop, path in sorted(self._paths(), key=lambda piece: (piece[0], -piece[1])):
            if stop <= end:
                continue
            piece = self._read(path, start, stop)
            if piece is not None and piece.shape[1] == self.images:
                first = max(start, end)
                found[first], end = piece[first - start :], stop
        return found

    def _begun(self, numbers: range) -> Tensor:
        """These samples of the first images, as far as a run that was stopped has kept them, (len(numbers), n)."""
        path = self.folder / f"{_BEGUN}{numbers.start}-{numbers.stop}.safetensors"
        known = self._read(path, numbers.start, numbers.stop) if self.cache is not None and path.is_file() else None
        return torch.empty(len(numbers), 0) if known is None else known

    def _paths(self) -> Iterator[tuple[int, int, Path]]:
        if self.cache is None:
            return
        with files.writing(self.cache):
            paths = sorted(self.folder.glob("*-*.safetensors")) if self.folder.is_dir() else []
        for path in paths:
            start, _, stop = path.stem.partition("-")
            if start.isdecimal() and stop.isdecimal():
                yield int(start), int(stop), path

    def _read(self, path: Path, start: int, stop: int) -> Tensor | None:
        try:
            tensors, described = checkpoint.read(path)
        except CheckpointError:
            if path.is_file():  # else another run has joined it into a larger one
                log.warning("The samples %s are damaged, and drawn again.", path)
            return None
        scores = tensors.get("scores")
        is_ours = (described.get("key"), described.get("start"), described.get("stop")) == (self.key, start, stop)
        is_whole = scores is not None and scores.ndim == 2 and len(scores) == stop - start
        if not (is_ours and is_whole) or scores is None or scores.shape[1] > self.images or bool(scores.isnan().any()):
            log.warning("The samples %s are not what they are called, and drawn again.", path)
            return None
        return scores

    def _write(self, numbers: range, scores: Tensor) -> None:
        """Some samples, (len(numbers), n): of all images, or of the first n of them while they are being drawn."""
        name = f"{numbers.start}-{numbers.stop}.safetensors"
        begun, is_whole = self.folder / f"{_BEGUN}{name}", scores.shape[1] == self.images
        if self.cache is None:
            if is_whole:
                self._held[numbers.start] = scores
            return
        described = {"key": self.key, "start": numbers.start, "stop": numbers.stop, "depends": self.depends}
        with files.writing(self.cache):
            checkpoint.write(self.folder / name if is_whole else begun, {"scores": scores}, described)
        if is_whole:
            _remove(begun)

    def _join(self) -> int:
        """One piece of what lies without a gap from the first sample on; the small ones go after it is written. Returns
        how many pieces there are then."""
        if self.cache is None:
            return 0
        before, pieces = list(self._paths()), self._pieces()
        rows: list[Tensor] = []
        end = 0
        for start, piece in pieces.items():
            if start == end:
                rows.append(piece)
                end += len(piece)
        if len(rows) > 1:
            self._write(range(end), torch.cat(rows))
            for _, stop, path in before:
                if stop <= end and path.stem != f"0-{end}":
                    _remove(path)
        return len(list(self._paths()))


def scores_under_noise(
    detector: Detector, x: Tensor, noise: Noise, *, sigma: float, samples: range, of_surrogate: bool = False
) -> Tensor:
    """Scores of images under their noise, (len(samples), B), on the CPU, or those of the surrogate. Raises CellError
    where some are NaN."""
    score = detector.surrogate_score if of_surrogate else detector.score

    def trusted(images: Tensor, own: Noise) -> Tensor:
        with detector.trusting():  # noisy images leave [0, 1]
            return score(images, noise=own)

    with torch.no_grad():
        found = noisy_scores(trusted, x, noise, sigma=sigma, samples=samples).cpu()
    bad = int(found.isnan().sum())
    if bad:
        raise CellError(
            f"{bad} of {found.numel()} scores of {detector.name} under noise of {sigma:g} are NaN; look for a division "
            "by zero, a logarithm or an overflow on images that leave [0, 1]."
        )
    return found


def _remove(path: Path) -> None:
    """A piece that is needed no more, and its description."""
    for gone in (path, checkpoint.description_path(path)):
        with suppress(OSError):
            gone.unlink(missing_ok=True)


def _missing(pieces: dict[int, Tensor], count: int) -> list[tuple[int, int]]:
    """The ranges of the first `count` samples that no piece has."""
    found, end = [], 0
    for start, piece in pieces.items():
        if start > end and end < count:
            found.append((end, min(start, count)))
        end = max(end, start + len(piece))
    return [*found, (end, count)] if end < count else found
