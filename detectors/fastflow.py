"""FastFlow: a two-dimensional normalising flow over the features of each scale.

Yu et al. 2021, "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows" (arXiv 2111.07677).
Features of a frozen ImageNet network at strides 4, 8 and 16, a trainable LayerNorm on each, and a flow of coupling
blocks whose subnets are convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.parts import backbone as backbones
from detectors.parts import likelihood, presets
from detectors.parts.backbone import Backbone
from detectors.parts.features import Features
from detectors.parts.flow import Flow, MapSubnet, map_flow
from detectors.parts.images import resize
from detectors.parts.likelihood import least_log_likelihood
from detectors.parts.training import (
    QUICK_EPOCH,
    adam,
    batches,
    check_schedule,
    holdout,
    initialise_,
    train_until_held_out_stops_improving,
)
from detectors.registry import register

_CHUNK = 32


@dataclass(frozen=True)
class FastFlowSettings(Settings):
    """Settings of FastFlow.

    Attributes:
        backbone: timm's name of the network.
        layers: whose features get a flow each; at least two channels.
        input_size: side to which images are resized; 0 leaves them.
        flow_steps: coupling blocks of each flow.
        only_3x3: 3x3 convolutions in every block (ResNet-18 there); otherwise 3x3 and 1x1 in turn (WideResNet-50-2).
        hidden: the subnets' hidden channels as a multiple of their inputs.
        clamp: bound of a block's log-scale.
        epochs: passes over the training images at most.
        epoch_images: images of one pass at most, drawn anew for each: larger sets train no longer; 0: all.
        batch_size: images per step.
        learning_rate: Adam's.
        weight_decay: Adam's.
        patience: epochs without a better likelihood of the held-out normals before training stops.
        holdout: share of the normals that is held out for that.
        score_domain: "exp" as published, or "log" (class docstring).
        weights: "pretrained"; "random" is for tests.
    """

    backbone: str = backbones.PAPER
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    input_size: int = 256
    flow_steps: int = 8
    only_3x3: bool = False
    hidden: float = 1.0
    clamp: float = 2.0
    epochs: int = 500
    epoch_images: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    patience: int = 100
    holdout: float = 0.1
    score_domain: str = "exp"
    weights: str = "pretrained"


@register
class FastFlow(Detector):
    """score = max over pixels of -(mean over scales of exp(-0.5 mean over channels of z^2)); it lies in (-1, 0].

    **The exponential hides its own gradient**: far from the normals it underflows, with it the gradient, and a
    sufficiently strong anomaly scores -0.0 whatever an attack does. `surrogate_score`, what attacks should
    differentiate, is the maximum of -log(the same mean): a monotone function of the score that never saturates (the
    mean of the logarithms would be another ranking). `score_domain="log"` makes it the declared score.
    """

    name = "fastflow"
    title = "FastFlow"
    paper = "Yu et al. 2021, arXiv 2111.07677"
    revision = 5  # last bits: every gradient is PyTorch's own, of the plain formula
    has_map = True
    surrogate_is_monotone = True
    frozen_prefixes: ClassVar[tuple[str, ...]] = ("backbone.",)

    def __init__(self, settings: FastFlowSettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had, DetectorError for settings that cannot be."""
        super().__init__(settings, image_size)
        _check(settings)
        self.has_surrogate = settings.score_domain == "exp"
        self.work_size = settings.input_size or image_size
        self.backbone = Backbone(
            settings.backbone, settings.layers, size=settings.input_size or None, weights=settings.weights
        )
        shapes = [maps.shape[1:] for maps in self.backbone.blank_maps(image_size)]
        self.norms = nn.ModuleList(nn.LayerNorm(list(shape)) for shape in shapes)
        self.flows = nn.ModuleList(_flow(shape[0], settings) for shape in shapes)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FastFlowSettings:
        """`quick`: a small network, small flows and few epochs. `paper`: the authors' at WideResNet-50-2."""
        quick = FastFlowSettings(
            backbone=backbones.QUICK,
            layers=("blocks.1", "blocks.2", "blocks.4"),
            input_size=0,
            flow_steps=4,
            epochs=8,
            epoch_images=QUICK_EPOCH,
            batch_size=16,
            learning_rate=3e-3,
            patience=3,
        )
        return presets.choose(preset, quick=quick, paper=FastFlowSettings())

    def frozen_hashes(self) -> dict[str, str]:
        """The backbone's."""
        return {self.settings.backbone: self.backbone.sha256}

    # -- the score ----------------------------------------------------------------------------------------------------

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return likelihood.anomaly_map(self._least(x), self.settings.score_domain)

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return likelihood.anomaly_map(self._least(x), "log")

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return resize(self._map(x, self.settings.score_domain)[:, None], x.shape[-1])[:, 0]

    def _map(self, x: Tensor, domain: str) -> Tensor:
        """(B, work size, work size)."""
        logs = [self._log_likelihood(i, maps, None) for i, maps in enumerate(self._normed(self.backbone(x)))]
        total = likelihood.log_likelihood(logs, self.work_size, align_corners=False)
        return likelihood.anomaly_map(total - math.log(len(logs)), domain)

    def _least(self, x: Tensor) -> Tensor:
        """The smallest value of the log-likelihood map, (B,)."""
        least = least_log_likelihood(
            self._normed(self.backbone(x)),
            self._log_likelihood,
            self.work_size,
            align_corners=False,
            reach=max(cast(Flow, network).reach for network in self.flows),
        )
        return least - math.log(len(self.flows))

    def _log_likelihood(self, scale: int, maps: Tensor, positions: Tensor | None) -> Tensor:
        """-0.5 mean of z^2 at each position (B, h, w), of normed features (B, C, h, w)."""
        z, _ = self.flows[scale](maps)
        return -0.5 * cast(Tensor, z).square().mean(dim=1)

    def _normed(self, features: list[Tensor]) -> list[Tensor]:
        """Behind the LayerNorms, (B, C, h, w) per scale, channels-last."""
        found = []
        for module, layer in zip(self.norms, features, strict=True):
            norm = cast(nn.LayerNorm, module)
            # torch's norm would leave channels-last, in which thin convolutions are up to four times faster.
            weight, bias = (values.permute(1, 2, 0).contiguous() for values in (norm.weight, norm.bias))
            normed = F.layer_norm(layer.permute(0, 2, 3, 1), weight.shape, weight, bias, norm.eps)  # (B, h, w, C)
            found.append(normed.permute(0, 3, 1, 2))
        return found

    def _latents(self, features: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """z (B, C, h, w) and the flow's log-determinant at each position (B, h, w), per scale."""
        return [network(maps) for network, maps in zip(self.flows, self._normed(features), strict=True)]

    # -- the fit ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: FastFlowSettings = self.settings
        for i, network in enumerate(self.flows):
            cast(Flow, network).initialise(generator(seed, "fastflow-initial", i), soft=False)
        initialise_(self.norms, generator(seed, "fastflow-norms"))
        features = Features(self.backbone, normals, progress)
        training, held_out = holdout(len(features), settings.holdout, generator(seed, "fastflow-holdout"))
        trained = nn.ModuleList([self.norms, self.flows])
        optimiser = adam(trained.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        dimensions = sum(math.prod(shape) for shape in features.shapes)  # losses are reported per dimension

        def train(epoch: int) -> list[float]:
            total, seen = torch.zeros((), device=normals.device), 0
            order = generator(seed, "fastflow-order", epoch)
            for indices in batches(len(training), settings.batch_size, order, most=settings.epoch_images):
                losses = self._losses(features[training[indices]])
                optimiser.zero_grad(set_to_none=True)
                losses.mean().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += losses.detach().sum()
                seen += len(indices)
            return [float(total) / seen / dimensions]

        def judge() -> list[float]:
            parts = held_out.split(_CHUNK)  # type: ignore[no-untyped-call]
            total = torch.cat([self._negative_log_likelihood(features[indices]) for indices in parts])
            return [float(total.mean()) / dimensions]

        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            trained,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=judge,
            progress=progress,
        )

    def _losses(self, features: list[Tensor]) -> Tensor:
        """0.5 |z|^2 - log-determinant of each image, summed over the scales, (B,)."""
        per_scale = [
            0.5 * z.square().sum(dim=(1, 2, 3)) - log_determinant.sum(dim=(1, 2))
            for z, log_determinant in self._latents(features)
        ]
        return torch.stack(per_scale).sum(dim=0)

    def _negative_log_likelihood(self, features: list[Tensor]) -> Tensor:
        """Of the normalised features, up to a constant, (B,): what training stops by.

        The published loss leaves LayerNorm's gain out of the likelihood, so shrinking that gain lowers it without end.
        Here the gain counts as part of the flow; otherwise the held-out loss would hardly ever stop falling.
        """
        gains = torch.stack([cast(Tensor, norm.weight).abs().log().sum() for norm in self.norms])
        return self._losses(features) - gains.sum()


def _flow(channels: int, settings: FastFlowSettings) -> Flow:
    if channels < 2:
        raise DetectorError(f"fastflow's layers need at least 2 channels; one of {settings.layers} has {channels}.")

    def subnet(inputs: int, outputs: int, step: int) -> MapSubnet:
        kernel = 3 if settings.only_3x3 or step % 2 == 0 else 1
        return MapSubnet(inputs, outputs, max(1, int(settings.hidden * inputs)), kernel)

    return map_flow(channels, settings.flow_steps, subnet, clamp=settings.clamp)


def _check(settings: FastFlowSettings) -> None:
    likelihood.check_domain("fastflow", settings.score_domain)
    check_schedule("fastflow", settings)
    if settings.flow_steps < 1:
        raise DetectorError(f"fastflow's flow_steps must be at least 1; got {settings.flow_steps}.")
    for key in ("hidden", "clamp"):
        if not getattr(settings, key) > 0:
            raise DetectorError(f"fastflow's {key} must be above 0; got {getattr(settings, key)}.")
