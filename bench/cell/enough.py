"""When an image has been attacked enough: an early stop that changes no figure of pairs.

An AUC counts the pairs of a normal and an anomaly that are in order. Normals are attacked first. One whose score has
passed the largest CLEAN score of the anomalies has lost all its pairs, since attacked anomalies only fall further. Then
anomalies: one that lies below the smallest score of the ATTACKED normals has lost all of its pairs. Whatever more an
attack would do to such an image, robust AUC, strict AUC and the FPR at 95 % TPR stay what they are, to the last digit,
since only pairs between the classes count; the AUPR does where no two anomalies share a score (of those that do, it
counts the last one's precision for all, so a record leaves the robust one out where attacked anomalies tie). Where an
image must lie on the wrong side of a threshold as well, so does whatever is counted at it. Attacked normals among
clean anomalies keep their AUC, too. What is NOT kept: that of attacked anomalies among clean normals, and figures of
pixels.

An ensemble of attacks renews its bounds: of those that come after the first, normals need to pass no more than what has
become of the anomalies, which only fall further. Then attacked normals among clean anomalies do not keep their AUC.

It holds of a deterministic detector whose best candidate is kept, the clean image among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Of the largest score: a score in another batch may round otherwise. What it misses, `lost` finds.
MARGIN = 1e-5


@dataclass(frozen=True, eq=False)
class Bounds:
    """What an attacked image's score must pass.

    Attributes:
        labels: +1 normal, -1 anomalous, (N,).
        clean: scores of the clean images, (N,), in whatever the attack compares.
        threshold: above which an image is called anomalous, or None.
    """

    labels: NDArray[np.int64]
    clean: Floats
    threshold: float | None

    def normals(self, anomalies: Floats | None = None) -> float:
        """A normal image above it has lost all its pairs with the clean anomalies, or with others, and is called
        anomalous."""
        known = self.clean[self.labels == -1] if anomalies is None else anomalies
        return max(float(known.max(initial=-np.inf)), -np.inf if self.threshold is None else self.threshold)

    def anomalies(self, attacked_normals: Floats) -> float:
        """An anomaly below it has lost all its pairs, and is called normal."""
        lowest = float(attacked_normals.min(initial=np.inf))
        return min(lowest, np.inf if self.threshold is None else self.threshold)

    def losses(self, label: int, scores: Floats, *, renewed: bool = False) -> float:
        """The loss y * A(x) that is enough for the images of a class, with room for rounding.

        Args:
            label: +1 or -1.
            scores: of all images as far as they have been attacked, (N,).
            renewed: whether normals need to pass no more than what has become of the anomalies; else the clean ones.
        """
        of_anomalies = scores[self.labels == -1] if renewed else None
        bound = self.normals(of_anomalies) if label == 1 else -self.anomalies(scores[self.labels == 1])
        return bound + MARGIN * float(np.abs(self.clean).max(initial=0.0))

    def lost(self, robust: Floats, *, renewed: bool = False) -> NDArray[np.bool_]:
        """Which images have lost all their pairs by these scores of the attacked images, (N,); `renewed` as above."""
        normal = self.labels == 1
        limit = self.normals(robust[~normal] if renewed else None)
        return np.where(normal, robust > limit, robust < self.anomalies(robust[normal]))
