"""A detector's gradient at a test's own images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors import contract
from detectors.base import Detector
from detectors.contract import gradients
from detectors.noise import Noise


def check_derivative(detector: Detector, images: Tensor, *, directions: int = 3) -> None:
    """Of the score at these images as they are, (B, 3, S, S). Raises ContractError where it is not the derivative."""
    place = contract.Subject.of(detector, images).everywhere("score")
    gradients.check_derivative(place, gradients.STRICT, directions=directions)


def gradient(score: Callable[..., Tensor], x: Tensor, noise: Noise) -> Tensor:
    """Of the sum of the scores with respect to x, (B, 3, S, S)."""
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(score(leaf, noise=noise).sum(), leaf)
    return found
