"""A sweep over epsilon: in each ball the attack starts from what was found in the next smaller one, which lies in it.

Where the AUC has reached 0, the sweep is at its end: the same images are in every larger ball. A sweep that was cut off
goes on with the same bits: of balls that have their record the attack is made once more, which finds the same images;
nothing is kept on the disk for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attacks.base import Attack
from bench.errors import CellError
from bench.records.record import Record

_AT_A_THRESHOLD = ("threshold", "threshold_rule", "robust_accuracy", "attack_success")
Again = Callable[[Attack, Tensor | None], Tensor]


@dataclass(eq=False)
class Sweep:
    """The balls of a sweep that are done, on one fit of a detector.

    Attributes:
        last: the record of the largest of them; None where there is none.
    """

    last: Record | None = None
    _images: Tensor | None = None  # found in the largest ball of which they are at hand
    _to_repeat: list[Attack] = field(default_factory=list)  # the balls after it, whose records alone were there

    def forget(self) -> None:
        """What comes next starts as usual."""
        self.last, self._images, self._to_repeat = None, None, []

    @property
    def images(self) -> Tensor | None:
        """What was found in the largest ball that is done, (N, 3, S, S); None where only its record is at hand."""
        return None if self._to_repeat else self._images

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left: every pair is lost, on every draw."""
        robust = None if self.last is None else self.last.robust
        return robust is not None and robust.auc == 0

    def add(self, attack: Attack, record: Record, images: Tensor | None) -> None:
        """The next larger ball is done: what was found in it, (N, 3, S, S), or None where there is only its record."""
        self.last = record
        if images is None:
            self._to_repeat.append(attack)
        else:
            self._images, self._to_repeat = images, []

    def start(self, again: Again) -> Tensor:
        """The images that the next larger ball's attack starts from, (N, 3, S, S). `again` gives what an attack finds
        from a start, where that is not at hand. Raises CellError where there is nothing to start from."""
        if self.last is None or not self.last.ok:
            raise CellError(
                "The cell of the next smaller epsilon, which this one starts from, failed; mend that, and run again."
            )
        while self._to_repeat:
            self._images = again(self._to_repeat[0], self._images)
            self._to_repeat.pop(0)
        assert self._images is not None
        return self._images


def results_in_a_larger(smaller: Record) -> dict[str, Any]:
    """What holds in a ball that was not attacked, of a smaller one's results: not what more of an attack could lower at
    a threshold or in maps, where an AUC of 0 cannot be lowered."""
    found = {name: value for name, value in smaller.results.items() if name not in _AT_A_THRESHOLD}
    pixel = found.get("pixel")
    if isinstance(pixel, dict):
        found["pixel"] = {name: value for name, value in pixel.items() if not name.startswith("robust")}
    return found


def indicators_in_a_larger(smaller: Record) -> dict[str, Any]:
    """That it was not attacked, and which ball's images its scores are of."""
    first = smaller.indicators.get("smaller_ball", smaller.epsilon)
    return {"smaller_ball": first, "forward_passes_per_image": 0, "gradients_per_image": 0}
