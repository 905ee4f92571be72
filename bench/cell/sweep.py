"""A sweep over epsilon: in each ball the attack starts from what was found in the next smaller one, which lies in it.

Where that has left nothing, the sweep is at its end: the same images are in every larger ball. A sweep that was cut off
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
    def has_ended(self) -> bool:
        """Whether nothing is left: every pair is lost, and every image on the wrong side of the threshold, where there
        is one."""
        robust = None if self.last is None else self.last.robust
        return (
            self.last is not None
            and robust is not None
            and robust.auc == 0
            and self.last.results.get("robust_accuracy") in (None, 0)
        )

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


def indicators_of_the_smaller(smaller: Record) -> dict[str, Any]:
    """What a record says whose images are those of a smaller ball."""
    first = smaller.indicators.get("smaller_ball", smaller.epsilon)
    return {"smaller_ball": first, "forward_passes_per_image": 0, "gradients_per_image": 0}
