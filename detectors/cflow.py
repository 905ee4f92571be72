"""CFlow: a conditional normalising flow over the features at each position.

Gudovskiy et al. 2022, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via Conditional Normalizing
Flows" (WACV). One flow per layer of a frozen ImageNet network, shared by all positions and told the position by a
sine/cosine code.

Ours differs where the authors' code looks at the test set: its likelihoods are divided by their maximum over all test
images, and the epoch is picked by the test AUC. Here the maxima are those of the training normals, and training stops
by the loss on held-out normals. And the fibers of a step are all images of a batch at the same drawn positions, where
the authors permute over images and positions alike.
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
from detectors.parts.flow import Flow, VectorSubnet, vector_flow
from detectors.parts.images import resize
from detectors.parts.likelihood import least_log_likelihood
from detectors.parts.training import (
    adam,
    batches,
    check_schedule,
    holdout,
    train_until_held_out_stops_improving,
)
from detectors.registry import register

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_CHUNK = 32


@dataclass(frozen=True)
class CFlowSettings(Settings):
    """Settings of CFlow.

    Attributes:
        backbone: timm's name of the network.
        layers: whose features get a flow each; at least two channels.
        input_size: side to which images are resized; 0 leaves them.
        blocks: coupling blocks of each flow.
        hidden: the subnets' hidden width as a multiple of their inputs.
        clamp: bound of a block's log-scale.
        condition: length of the position code, a multiple of 4.
        soft_permutation: random rotations between the blocks; otherwise permutations.
        standardise: bring each feature channel to mean 0 and deviation 1 on the training normals first (the authors
            do not); the flow then needs far fewer steps.
        epochs: passes over the training images at most.
        batch_size: images whose features are mixed in one batch.
        fibers: feature vectors per step.
        share: of the positions that an epoch visits, drawn anew for every batch.
        learning_rate: Adam's, at its highest.
        warm_up: share of the epochs in which the rate rises from a tenth; it then falls as a cosine to a thousandth.
        patience: epochs without a better loss on the held-out normals before training stops.
        holdout: share of the normals that is held out for that.
        score_domain: "exp" as published, or "log" (class docstring).
        weights: "pretrained"; "random" is for tests.
    """

    backbone: str = backbones.PAPER
    layers: tuple[str, ...] = ("layer2", "layer3", "layer4")
    input_size: int = 256
    blocks: int = 8
    hidden: float = 2.0
    clamp: float = 1.9
    condition: int = 128
    soft_permutation: bool = True
    standardise: bool = False
    epochs: int = 200
    batch_size: int = 32
    fibers: int = 256
    share: float = 1.0
    learning_rate: float = 2e-4
    warm_up: float = 0.08
    patience: int = 40
    holdout: float = 0.1
    score_domain: str = "exp"
    weights: str = "pretrained"


@register
class CFlow(Detector):
    """score = max over pixels of -(sum over layers of exp(log p / C - m)), upsampled before the sum; it lies below 0.

    m is each layer's largest log p / C on the training normals. The authors subtract the sum from its maximum; that
    constant changes no ranking and is left out, since next to it float32 loses the small values of strong anomalies.

    **The exponential hides its own gradient**: far from the normals the sum underflows, with it the gradient, and a
    sufficiently strong anomaly scores -0.0 whatever an attack does. `surrogate_score`, what attacks should
    differentiate, is the maximum of -log(the same sum): a monotone function of the score that never saturates.
    `score_domain="log"` makes it the declared score.
    """

    name = "cflow"
    title = "CFlow"
    paper = "Gudovskiy et al., WACV 2022, arXiv 2107.12571"
    revision = 5  # last bits: every gradient is PyTorch's own, of the plain formula
    has_map = True
    surrogate_is_monotone = True
    frozen_prefixes: ClassVar[tuple[str, ...]] = ("backbone.",)

    maxima: Tensor

    def __init__(self, settings: CFlowSettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had, DetectorError for settings that cannot be."""
        super().__init__(settings, image_size)
        _check(settings)
        self.has_surrogate = settings.score_domain == "exp"
        self.work_size = settings.input_size or image_size
        self.backbone = Backbone(
            settings.backbone, settings.layers, size=settings.input_size or None, weights=settings.weights
        )
        blank = self.backbone.blank_maps(image_size)
        self.flows = nn.ModuleList(_flow(features.shape[1], settings) for features in blank)
        self.register_buffer("maxima", torch.zeros(len(blank)))
        for i, features in enumerate(blank):
            height, width = features.shape[-2:]
            self.register_buffer(f"code_{i}", position_code(height, width, settings.condition), persistent=False)
            self.register_buffer(f"mean_{i}", torch.zeros(features.shape[1]))
            self.register_buffer(f"deviation_{i}", torch.ones(features.shape[1]))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CFlowSettings:
        """`quick`: a small network, small flows on standardised features and few epochs. `paper`: the authors'."""
        quick = CFlowSettings(
            backbone=backbones.QUICK,
            layers=("blocks.1", "blocks.2", "blocks.4"),
            input_size=0,
            blocks=4,
            hidden=0.5,
            standardise=True,
            epochs=20,
            fibers=2048,
            share=0.25,
            learning_rate=2e-3,
            patience=6,
        )
        return presets.choose(preset, quick=quick, paper=CFlowSettings())

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
        relative = [self._relative(i, layer, None) for i, layer in enumerate(self.backbone(x))]
        total = likelihood.log_likelihood(relative, self.work_size, align_corners=True)
        return likelihood.anomaly_map(total, domain)

    def _least(self, x: Tensor) -> Tensor:
        """The smallest value of the log-likelihood map, (B,)."""
        return least_log_likelihood(self.backbone(x), self._relative, self.work_size, align_corners=True, reach=0)

    def _relative(self, layer: int, features: Tensor, positions: Tensor | None) -> Tensor:
        """log p / C - m (B, a, b) of features (B, C, a, b): of a whole layer, or at positions (B, a b) of it."""
        code = self._code(layer) if positions is None else self._code(layer)[positions]
        return self._log_map(layer, features, code) - self.maxima[layer]

    def _log_probabilities(self, features: list[Tensor]) -> list[Tensor]:
        """log p / C at each position, (B, h, w) per layer, of the features (B, C, h, w)."""
        return [self._log_map(i, layer, self._code(i)) for i, layer in enumerate(features)]

    def _log_map(self, layer: int, features: Tensor, code: Tensor) -> Tensor:
        """log p / C (B, a, b) of features (B, C, a, b); the code is that of their positions, ([B,] a b, condition)."""
        vectors = features.permute(0, 2, 3, 1).flatten(1, 2)
        return self._log_probability(layer, vectors, code).view(-1, *features.shape[-2:])

    def _log_probability(self, layer: int, vectors: Tensor, code: Tensor) -> Tensor:
        """log p / C (B, P) of feature vectors (B, P, C), the code as in `_log_map`."""
        z, log_determinant = cast(Flow, self.flows[layer])(self._standardised(layer, vectors), code)
        log_p: Tensor = -0.5 * z.square().sum(dim=-1) + log_determinant
        return log_p / vectors.shape[-1] - _LOG_ROOT_TWO_PI

    def _standardised(self, layer: int, vectors: Tensor) -> Tensor:
        mean: Tensor = getattr(self, f"mean_{layer}")
        deviation: Tensor = getattr(self, f"deviation_{layer}")
        return (vectors - mean) / deviation

    def _code(self, layer: int) -> Tensor:
        """(h w, condition)."""
        code: Tensor = getattr(self, f"code_{layer}")
        return code

    # -- the fit ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: CFlowSettings = self.settings
        for i, network in enumerate(self.flows):
            cast(Flow, network).initialise(generator(seed, "cflow-initial", i), soft=settings.soft_permutation)
        features = Features(self.backbone, normals, progress)
        self._measure(features)
        training, held_out = holdout(len(features), settings.holdout, generator(seed, "cflow-holdout"))
        optimisers = [adam(f.parameters(), settings.learning_rate) for f in self.flows]

        def train(epoch: int) -> list[float]:
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = settings.learning_rate * rate(epoch, settings.epochs, settings.warm_up)
            draws = generator(seed, "cflow-order", epoch)
            total, steps = torch.zeros((), device=normals.device), 0
            for indices in batches(len(training), settings.batch_size, draws):
                for i, layer in enumerate(features[training[indices]]):
                    vectors, code = layer.permute(0, 2, 3, 1).flatten(1, 2), self._code(i)
                    # All images of a batch at the same positions: the subnets see each position's code once.
                    for chosen in self._positions(len(code), len(vectors), draws):
                        chosen = chosen.to(normals.device)
                        log_p = self._log_probability(i, vectors.index_select(1, chosen), code[chosen])
                        loss = -F.logsigmoid(log_p).mean()
                        optimisers[i].zero_grad(set_to_none=True)
                        loss.backward()  # type: ignore[no-untyped-call]
                        optimisers[i].step()
                        total, steps = total + loss.detach(), steps + 1
            return [float(total) / steps]

        def judge() -> list[float]:
            total = torch.zeros((), device=normals.device)
            for indices in held_out.split(_CHUNK):  # type: ignore[no-untyped-call]
                logs = self._log_probabilities(features[indices])
                total += torch.stack([-F.logsigmoid(log).mean() for log in logs]).mean() * len(indices)
            return [float(total) / len(held_out)]

        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            self.flows,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=judge,
            progress=progress,
        )
        self._freeze_maxima(features)

    def _positions(self, count: int, images: int, draws: torch.Generator) -> tuple[Tensor, ...]:
        """The positions of each step for one batch of images, in random order."""
        visited = torch.randperm(count, generator=draws)[: max(1, math.ceil(count * self.settings.share))]
        chunks: tuple[Tensor, ...] = visited.split(max(1, self.settings.fibers // images))  # type: ignore[no-untyped-call]
        return chunks

    @torch.no_grad()
    def _measure(self, features: Features) -> None:
        """Each channel's mean and deviation over the training normals and positions.

        Over all of them, before some are held out: only early stopping can be flattered by that.
        """
        for i, shape in enumerate(features.shapes):
            mean, deviation = getattr(self, f"mean_{i}"), getattr(self, f"deviation_{i}")
            mean.zero_()
            deviation.fill_(1.0)
            if self.settings.standardise:
                total = torch.zeros(2, shape[0], dtype=torch.float64, device=mean.device)
                for indices in torch.arange(len(features)).split(_CHUNK):  # type: ignore[no-untyped-call]
                    layer = features[indices][i].double()
                    total += torch.stack([layer.sum(dim=(0, 2, 3)), layer.square().sum(dim=(0, 2, 3))])
                first, second = total / (len(features) * shape[1] * shape[2])
                mean.copy_(first)
                deviation.copy_((second - first.square()).clamp_min(1e-12).sqrt())

    @torch.no_grad()
    def _freeze_maxima(self, features: Features) -> None:
        tops = []
        for indices in torch.arange(len(features)).split(_CHUNK):  # type: ignore[no-untyped-call]
            tops.append(torch.stack([log.amax() for log in self._log_probabilities(features[indices])]))
        self.maxima.copy_(torch.stack(tops).amax(dim=0))


def position_code(height: int, width: int, length: int) -> Tensor:
    """Sines and cosines of column and row at `length / 4` frequencies each, (height * width, length), row by row.

    The first half of the code tells the column, the second the row, each sin, cos, sin, cos, ... (their section 4.2,
    after Vaswani et al. 2017).
    """
    half = length // 2
    frequencies = 1e4 ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)

    def code(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (count, half)

    columns = code(width)[None].expand(height, -1, -1)
    rows = code(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


def rate(epoch: int, epochs: int, warm_up: float) -> float:
    """The learning rate of an epoch as a share of its highest."""
    cosine = 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    warm = round(warm_up * epochs)
    return cosine if epoch >= warm else 0.1 + (cosine - 0.1) * epoch / warm


def _flow(channels: int, settings: CFlowSettings) -> Flow:
    if channels < 2:
        raise DetectorError(f"cflow's layers need at least 2 channels; one of {settings.layers} has {channels}.")

    def subnet(inputs: int, outputs: int) -> VectorSubnet:
        hidden = max(1, round(settings.hidden * (inputs + settings.condition)))
        return VectorSubnet(inputs, outputs, hidden, settings.condition)

    return vector_flow(channels, settings.blocks, subnet, clamp=settings.clamp)


def _check(settings: CFlowSettings) -> None:
    likelihood.check_domain("cflow", settings.score_domain)
    if settings.condition < 4 or settings.condition % 4:
        raise DetectorError(f"cflow's condition must be a multiple of 4; got {settings.condition}.")
    check_schedule("cflow", settings)
    for key in ("blocks", "fibers"):
        if getattr(settings, key) < 1:
            raise DetectorError(f"cflow's {key} must be at least 1; got {getattr(settings, key)}.")
    for key in ("share", "hidden", "clamp"):
        if not getattr(settings, key) > 0:
            raise DetectorError(f"cflow's {key} must be above 0; got {getattr(settings, key)}.")
