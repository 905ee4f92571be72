"""Results of attacks put together: of batches, and of several attacks on the same images.

Of several attacks each image keeps the best one's. What was spent is the sum of all; what is said of how an image was
found (its losses, its gain, gradients of zero) is of the attack that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.candidates import Significant
from attacks.objective import Objective
from attacks.result import AttackResult
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector

COMPARISON_DRAWS = 16
_NOT_MERGED = ("had_enough", "trace", "gradients_spent", "surrogate_won")
# Whoever won: a black box that wins has no steps.
_OF_ALL_STEPS = ("zero_gradients", "non_finite_gradients", "surrogate_zero_gradients")
_OF_THE_COMPARISON = -4  # no draw of an attack has this number, so its noise is its own


def _each(result: AttackResult, change: Callable[[Tensor], Tensor]) -> AttackResult:
    """The result with each of its tensors changed."""
    tensors = {f.name: v for f in fields(result) if isinstance(v := getattr(result, f.name), Tensor)}
    changed: dict[str, Any] = {name: change(value) for name, value in tensors.items()}
    return replace(result, **changed)


def to_cpu(result: AttackResult) -> AttackResult:
    """On the CPU; of the trace, which is as long as the attack, the last row is kept."""
    return _each(replace(result, trace=result.best_loss[None]), Tensor.cpu)


def picked(result: AttackResult, places: Sequence[int] | slice, device: torch.device) -> AttackResult:
    """Some of the images' result, on a device."""
    trace = result.trace[:, places].to(device)
    return replace(_each(result, lambda v: v if v is result.trace else v[places].to(device)), trace=trace)


def joined(results: Sequence[AttackResult]) -> AttackResult:
    """Batches' results of one attack as one; passes are those of the batch that had most."""
    values: dict[str, Any] = {}
    for field in fields(AttackResult):
        parts = [getattr(result, field.name) for result in results]
        if isinstance(parts[0], Tensor):
            values[field.name] = torch.cat(parts, dim=1 if field.name == "trace" else 0)
        elif field.name in ("forwards", "gradients"):
            values[field.name] = max(parts)
        else:
            values[field.name] = parts[0]
    return AttackResult(**values)


def is_better(
    detector: Detector, y: Tensor, images: Tensor, known: Tensor, found: AttackResult, selection: Noise
) -> Tensor:
    """Where another attack's images are better than those that are known, (B,) bool.

    Of a deterministic detector: where their loss is higher. Of a stochastic one they are compared on common draws, and
    must be ahead by more than these scatter (`attacks.candidates.Significant`).

    Args:
        detector: the one that was attacked.
        y: labels, (B,).
        images, known: the images that are known and their losses, (B, 3, H, W) and (B,).
        found: the other attack's result on the same images.
        selection: where the common draws come from.
    """
    if not detector.is_stochastic:
        return (found.best_loss > known) | (known.isnan() & ~found.best_loss.isnan())
    objective = Objective(detector, y.to(images.dtype), differentiate="surrogate")
    draws = selection.sub(_OF_THE_COMPARISON)
    best = Significant(images, objective.losses(images, draws, COMPARISON_DRAWS), 0)
    best.challenge(found.images, objective.losses(found.images, draws, COMPARISON_DRAWS), 1)
    return best.run == 1


def merged(first: AttackResult, second: AttackResult, rows: Tensor, wins: Tensor) -> AttackResult:
    """Both results as one.

    Args:
        first: of N images.
        second: of B of them, by another attack.
        rows: which these are, (B,).
        wins: where the second's image is the better one, (B,) bool.

    Returns:
        The N images' result, without `had_enough` and `surrogate_won`; its `trace` has the best losses after each of
        the attacks. Shares of bad gradients are of the steps of both, weighted by all of their steps; NaN where nobody
        followed that gradient.
    """
    chosen, values = rows[wins], {}
    for field in fields(AttackResult):
        old, new = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("forwards", "gradients"):
            values[field.name] = old + new
        elif field.name in _NOT_MERGED or (old is None and new is None):
            values[field.name] = None
        elif field.name in _OF_ALL_STEPS:
            unknown = torch.full_like(first.best_loss, torch.nan)
            old, new = (unknown if old is None else old), (unknown[rows] if new is None else new)
            values[field.name] = _of_both(old, new, rows, _spent(first), _spent(second))
        else:
            values[field.name] = _replaced(old, new, first, chosen, wins)
    return AttackResult(
        **values
        | {
            "trace": torch.cat([first.trace, values["best_loss"][None]]),
            "gradients_spent": _spent(first).index_add(0, rows, _spent(second)),
        }
    )


def _replaced(old: Tensor | None, new: Tensor | None, first: AttackResult, chosen: Tensor, wins: Tensor) -> Tensor:
    """What is known of all images, with what is known of the winners; NaN, or False, where one attack did not say."""
    if old is None:
        assert new is not None
        old = torch.zeros((len(first.images), *new.shape[1:]), dtype=new.dtype, device=new.device)
        old = old.fill_(torch.nan) if new.dtype.is_floating_point else old
    found = old.clone()
    unknown = torch.nan if found.dtype.is_floating_point else 0
    found[chosen] = unknown if new is None else new[wins].to(found)
    return found


def _of_both(old: Tensor, new: Tensor, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """A share of the steps of both attacks, of N images, by the steps of each; NaN where neither says it."""
    new = new.to(old)
    weight = torch.where(before[rows] + after > 0, after / (before[rows] + after), 0).to(old)
    both = torch.lerp(old[rows], new, weight)
    both = torch.where(new.isnan(), old[rows], torch.where(old[rows].isnan(), new, both))
    return old.index_copy(0, rows, both)


def _spent(result: AttackResult) -> Tensor:
    """Backward passes of each image, (B,)."""
    if result.gradients_spent is not None:
        return result.gradients_spent.to(result.best_loss.dtype)
    return torch.full_like(result.best_loss, float(result.gradients))
