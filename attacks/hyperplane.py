"""The nearest point of a hyperplane inside the pictures' range: Croce & Hein 2020, Eq. (5), for l-inf and l2.

For an image x in [0, 1] and a normal w, the point of {z : <w, z - x> = need} in [0, 1] that is nearest to x lies on a
path that is known beforehand: P(t) = clip(x + t u, 0, 1), with u = sign(w) in l-inf and u = w in l2, w turned so that
need is positive. (l-inf: whoever may change each pixel by t changes all that help by t, or as far as they go. l2: the
conditions of Karush, Kuhn and Tucker.) What is won on the way, <w, P(t) - x>, is concave and piecewise linear in t, so
Newton's method from t = 0 never oversteps and ends at the exact t after finitely many steps, mostly three to six; no
sorting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.threat import L2, LInf, largest_entry

ROUNDING = 1e-13  # of what is needed: below what float64 knows of a sum over an image


@dataclass(frozen=True, eq=False)
class SteepestPath:
    """P(t) = clip(x + t * direction, 0, 1): from x the way that wins most along a normal for each change in the norm.

    Attributes:
        x: where it begins, (B, 3, H, W) in [0, 1].
        direction: u, float64 of the same shape; its largest entry is 1, or all of it is 0.
    """

    x: Tensor
    direction: Tensor

    def at(self, t: Tensor) -> Tensor:
        """The images P(t) for t, (B,), in x's dtype."""
        return (self.x + t.double()[:, None, None, None] * self.direction).clamp_(0, 1).to(self.x.dtype)

    @property
    def corner(self) -> Tensor:
        """Where the path ends: every pixel that helps at the end of its range, (B, 3, H, W) in x's dtype."""
        ends = (self.direction > 0).to(self.x.dtype)
        return torch.where(self.direction == 0, self.x, ends)


def steepest_path(x: Tensor, normal: Tensor, norm: str) -> SteepestPath:
    """The path from x (B, 3, H, W) in [0, 1] along a normal of that shape; nowhere for a normal of zeros.

    Raises:
        ThreatModelError: a norm that is neither "linf" nor "l2".
    """
    largest = largest_entry(normal).double()[:, None, None, None]
    scaled = normal.double() / torch.where(largest > 0, largest, 1)
    if norm == LInf.norm:
        return SteepestPath(x, scaled.sign())
    if norm == L2.norm:
        return SteepestPath(x, scaled)
    raise ThreatModelError(f"There is no norm {norm!r}; use 'linf' or 'l2'.")


def time_to_plane(x: Tensor, normal: Tensor, need: Tensor, norm: str) -> tuple[SteepestPath, Tensor]:
    """The path from x towards the hyperplane {z : <normal, z - x> = need}, and the t at which it is reached, (B,).

    Where the hyperplane does not meet [0, 1] the path ends at the corner that is nearest to it, and t is where. Nothing
    moves where the normal is zero, or where `need` is 0 or no number.

    Args:
        x: images, (B, 3, H, W) in [0, 1].
        normal: of the same shape, finite.
        need: (B,), of either sign.
        norm: "linf" or "l2".
    """
    need = need.double().nan_to_num(nan=0.0)
    path = steepest_path(x, normal * need.sign().to(normal.dtype)[:, None, None, None], norm)
    speed = path.direction.abs().flatten(1)
    pull = normal.double().abs().flatten(1)
    room = torch.where(path.direction > 0, 1 - x.double(), x.double()).flatten(1)
    wanted = need.abs()
    t = torch.zeros_like(wanted)
    for _ in range(pull.shape[1] + 1):  # each step passes a pixel's end of the range, or is the last
        free = t[:, None] * speed < room
        left = wanted - (torch.minimum(t[:, None] * speed, room) * pull).sum(dim=1)
        slope = (pull * speed * free).sum(dim=1)
        going = (left > ROUNDING * wanted) & (slope > 0)
        if not bool(going.any()):
            break
        t = torch.where(going, t + left / torch.where(going, slope, 1), t)
    return path, t


def nearest_on_plane(x: Tensor, normal: Tensor, need: Tensor, norm: str) -> Tensor:
    """The nearest point of the hyperplane in [0, 1], (B, 3, H, W) in x's dtype; else and arguments as in
    `time_to_plane`."""
    path, t = time_to_plane(x, normal, need, norm)
    return path.at(t)
