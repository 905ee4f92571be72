"""What every trained detector needs: initial weights and an order of images that depend on the seed alone, and a loop
that stops early on held-out normals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import Progress
from detectors.errors import DetectorError

QUICK_EPOCH = 350  # `epoch_images` at `quick`: what ELPV mono has to train on; larger sets must not take far longer


def initialise_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, in place, from the generator: PyTorch's default distributions.

    Convolutions and linear layers: Kaiming-uniform with a = sqrt(5), biases uniform in +-1 / sqrt(fan in) (He et al.
    2015, as in torch.nn). Norms: weight 1, bias 0, fresh running statistics. So a fit does not depend on what the
    constructors drew from torch's global random state.

    Raises:
        TypeError: a layer with weights of its own that is none of these; initialise it yourself.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            draw_(layer.weight, partial(nn.init.kaiming_uniform_, a=math.sqrt(5), generator=generator))
            if layer.bias is not None:
                bound = 1 / math.sqrt(fan_in)
                draw_(layer.bias, partial(nn.init.uniform_, a=-bound, b=bound, generator=generator))
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            layer.reset_parameters()  # constants only  # type: ignore[no-untyped-call]
        elif next(layer.parameters(recurse=False), None) is not None:
            raise TypeError(f"initialise_ does not know {type(layer).__name__}; give it its own initialisation.")


def draw_(values: Tensor, fill: Callable[[Tensor], object]) -> None:
    """Fill in place with what `fill` draws into a tensor on the CPU, where generators of fits live."""
    with torch.no_grad():
        drawn = torch.empty(values.shape, dtype=values.dtype, device="cpu")
        fill(drawn)
        values.copy_(drawn)


def adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015), all of a step in one kernel: of small networks the plain one takes a tenth of the time.

    Args:
        parameters: what is trained.
        learning_rate: at the start.
        betas: of the two moving averages.
        weight_decay: weight of the L2 penalty in the gradient.
    """
    trained = list(parameters)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.Adam(trained, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=fused)


def batches(count: int, size: int, generator: torch.Generator, *, most: int = 0) -> Iterator[Tensor]:
    """One epoch: the indices 0..count-1 in random order, in batches of `size`, the last one smaller.

    Args:
        count: of the training images.
        size: of a batch.
        generator: of the order.
        most: so many of the images, drawn anew with each order, or one batch where that is more; 0: all.
    """
    order = torch.randperm(count, generator=generator)
    yield from (order[: max(most, size)] if most else order).split(size)  # type: ignore[no-untyped-call]


def check_schedule(owner: str, settings: Any) -> None:
    """Raise DetectorError for a schedule that nothing can be trained with.

    Args:
        owner: the detector's name, for the error.
        settings: an object with the attributes epochs, batch_size, patience, learning_rate and holdout, and perhaps
            epoch_images.
    """
    for name in ("epochs", "batch_size", "patience"):
        if getattr(settings, name) < 1:
            raise DetectorError(f"{owner}'s {name} must be at least 1; got {getattr(settings, name)}.")
    if getattr(settings, "epoch_images", 0) < 0:
        raise DetectorError(f"{owner}'s epoch_images must be 0, for all, or more; got {settings.epoch_images}.")
    if not (math.isfinite(settings.learning_rate) and settings.learning_rate > 0):
        raise DetectorError(f"{owner}'s learning_rate must be a number above 0; got {settings.learning_rate:g}.")
    if not 0 < settings.holdout < 1:
        raise DetectorError(f"{owner}'s holdout must lie between 0 and 1; got {settings.holdout:g}.")


def held_count(count: int, fraction: float) -> int:
    """How many of `count` images `holdout` keeps from training: at least one, and never all."""
    return min(count - 1, max(1, round(count * fraction)))


def holdout(count: int, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices, sorted: what to train on, and what to stop early on (at least one of each)."""
    held = held_count(count, fraction)
    order = torch.randperm(count, generator=generator)
    return order[held:].sort().values, order[:held].sort().values


def train_until_held_out_stops_improving(
    owner: str,
    network: nn.Module,
    *,
    epochs: int,
    patience: int,
    train: Callable[[int], Sequence[float]],
    judge: Callable[[], Sequence[float]],
    progress: Progress,
    skipped: Sequence[str] = (),
) -> dict[str, Any]:
    """Epochs until `judge` has not improved for `patience` of them; the network keeps the weights of the best one.

    Args:
        owner: the detector's name, for the error.
        network: what is trained.
        epochs: at most so many.
        patience: see above.
        train: trains for the epoch of that number and returns its mean losses.
        judge: losses on the held-out normals, called without a graph; the last one decides.
        progress: told that loss after each epoch.
        skipped: prefixes of the network's state that does not change, and need not be kept.

    Returns:
        For the fit report: "losses" (of training, then held-out, a row for each epoch), "best_epoch", "held_out_loss".

    Raises:
        DetectorError: no epoch had a finite held-out loss.
    """
    best_loss, best_epoch, best = math.inf, 0, _kept(network, skipped)
    history: list[list[float]] = []
    for epoch in range(epochs):
        losses = list(train(epoch))
        with torch.no_grad():
            losses += judge()
        if not all(math.isfinite(loss) for loss in losses):
            break  # what was best before it diverged stands
        history.append(losses)
        progress(epoch + 1, epochs, f"held-out loss {losses[-1]:.4g}")
        if losses[-1] < best_loss:
            best_loss, best_epoch, best = losses[-1], epoch, _kept(network, skipped)
        elif epoch - best_epoch >= patience:
            break
    if not math.isfinite(best_loss):
        raise DetectorError(f"{owner}'s training diverged (the loss is not finite); lower its learning_rate.")
    network.load_state_dict(best, strict=not skipped)
    return {"losses": history, "best_epoch": best_epoch, "held_out_loss": best_loss}


def _kept(network: nn.Module, skipped: Sequence[str]) -> dict[str, Tensor]:
    state = network.state_dict()
    return copy.deepcopy({k: v for k, v in state.items() if not k.startswith(tuple(skipped) or ("\0",))})
