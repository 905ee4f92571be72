"""Pretrained ImageNet backbones (timm): frozen, with features at named layers and a gradient to the image.

The frozen network is simplified once, when it is built (`folding`): that is exact up to rounding, and it is checked
on probe images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import timm
import torch
from torch import Tensor, nn

from detectors.errors import DetectorError, nearest
from detectors.noise import generator
from detectors.parts import weights as weight_files
from detectors.parts.folding import PROBE_SIDE, mirror, simplified
from detectors.parts.images import centre_crop, resize

POOLED = "pooled"  # the pseudo-layer that is the global average of the last feature map, (B, C)
QUICK = "tf_efficientnet_lite0"
PAPER = "wide_resnet50_2.tv_in1k"  # torchvision's IMAGENET1K_V1 weights, those of 2020


class Backbone(nn.Module):
    """A frozen image network: x (B, 3, H, W) in [0, 1] to the feature maps of the layers asked for.

    Attributes:
        sha256: hash of the weights as they were found (before folding), for records; "random:..." for tests' weights.
        layers: the names of the layers, in the order of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        layers: Sequence[str],
        *,
        size: int | None = None,
        crop: int | None = None,
        weights: str = "pretrained",
        weights_folder: Path | None = None,
        seed: int = 0,
    ) -> None:
        """Build it and load the weights.

        Args:
            name: a timm model, with or without the tag of its weights.
            layers: names of modules of the timm model ("layer1", "blocks.2"), or POOLED.
            size: the side to which images are resized (bilinear, differentiable); None: as they come.
            crop: the side of the centre crop that follows; None: no crop.
            weights: "pretrained", or "random" (from `seed`): for tests, and marked as such in `sha256`.
            weights_folder: a folder of weight files that comes before every other place.
            seed: of random weights alone.

        Raises:
            WeightsError: the pretrained weights cannot be had.
            DetectorError: no such model or layer, or one that no features can be taken from.
        """
        super().__init__()
        self.name = name
        self.layers = tuple(layers)
        self.size, self.crop = size, crop
        network = _untrained(name)
        _check_layers(name, network, self.layers)
        if weights == "random":
            state = _random_state(network.state_dict(), generator(seed, "backbone", name))
            self.sha256 = f"random:{weight_files.digest(state)}"
        elif weights == "pretrained":
            state = weight_files.find(name, network.state_dict(), folder=weights_folder)
            self.sha256 = weight_files.digest(state)
        else:
            raise DetectorError(f"Backbone weights are 'pretrained' or, in tests, 'random'; got {weights!r}.")
        network.load_state_dict(state, assign=True)
        cast(Any, network).reset_classifier(0)
        try:
            self.network, self.is_mirrored = simplified(
                network.eval(), lambda chosen, x: features(chosen, x, self.layers)
            )
        except (AssertionError, RuntimeError) as error:  # a ViT asserts that images have its own size
            raise DetectorError(
                f"{name} cannot take images of {PROBE_SIDE} px, on which every backbone is tried ({error}); choose a "
                f"network for images of any size, e.g. {PAPER!r}."
            ) from error
        config = cast(Any, timm.get_pretrained_cfg(name))
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1))
        self.train(False)
        self.requires_grad_(False)
        self.channels = self._count_channels()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features, one tensor per layer: (B, C, h, w), or (B, C) for POOLED."""
        if self.size is not None:
            x = resize(x, self.size)
        if self.crop is not None:
            x = centre_crop(x, self.crop)
        (x,) = mirror([(x - self.mean) / self.std], self.is_mirrored)
        x = x.contiguous(memory_format=torch.channels_last)  # the CPU's fast layout
        return mirror(features(self.network, x, self.layers), self.is_mirrored)

    @torch.no_grad()
    def blank_maps(self, side: int) -> list[Tensor]:
        """The features of a grey image of that side, (1, C, h, w) per layer: what is built on them has their shapes.

        Raises:
            DetectorError: it cannot take images of that side, or a layer's features are no maps.
        """
        try:
            maps = self(self.mean.new_full((1, 3, side, side), 0.5))  # where the network lies
        except RuntimeError as error:
            raise DetectorError(f"{self.name} cannot take images of {side} px ({error}); enlarge them.") from error
        for layer, found in zip(self.layers, maps, strict=True):
            if found.ndim != 4:
                raise DetectorError(
                    f"{layer!r} of {self.name} gives no feature maps (B, C, h, w), and a detector that compares places "
                    "needs them; name another of its layers."
                )
        return list(maps)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: batch statistics would let images see each other."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stays frozen."""
        return super().requires_grad_(False)

    def _count_channels(self) -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(f.shape[1] for f in self(torch.full((1, 3, PROBE_SIDE, PROBE_SIDE), 0.5)))


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """The last wanted layer has been computed."""


def features(network: nn.Module, x: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """The outputs of the named modules for normalised images; stops behind the last of them.

    Raises:
        DetectorError: a module is there and takes no part in the features, as a classifier.
    """
    found: dict[str, Tensor] = {}
    wanted = [layer for layer in layers if layer != POOLED]
    runs_through = POOLED in layers

    def keep(layer: str, output: Tensor) -> None:
        found[layer] = output
        if not runs_through and len(found) == len(set(wanted)):
            raise _Reached

    handles = [
        network.get_submodule(layer).register_forward_hook(lambda _m, _i, output, layer=layer: keep(layer, output))
        for layer in wanted
    ]
    try:
        found[POOLED] = cast(Any, network).forward_features(x).mean(dim=(2, 3))
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer not in found:
            raise DetectorError(
                f"The network makes its features without its layer {layer!r}; name one that lies before the classifier."
            )
    return [found[layer] for layer in layers]


def _untrained(name: str) -> nn.Module:
    if not timm.is_model(name):
        raise DetectorError(f"timm has no model {name!r}; did you mean {nearest(name, timm.list_models())!r}?")
    with torch.device("meta"):  # no memory, and no draws from torch's global random state
        network: nn.Module = timm.create_model(name, pretrained=False)
    return network


def _check_layers(name: str, network: nn.Module, layers: Sequence[str]) -> None:
    known = [layer for layer, _ in network.named_modules() if layer] + [POOLED]
    if not layers:
        raise DetectorError(f"No layer of {name} was asked for; name at least one, e.g. {POOLED!r}.")
    for layer in layers:
        if layer not in known:
            raise DetectorError(f"{name} has no layer {layer!r}; did you mean {nearest(layer, known)!r}?")


def _random_state(reference: dict[str, Tensor], draws: torch.Generator) -> dict[str, Tensor]:
    """He-normal convolutions and neutral norms: features of a sensible scale, the same for the same seed."""
    state: dict[str, Tensor] = {}
    for key, like in reference.items():
        if like.ndim > 1:
            deviation = (2.0 / like[0].numel()) ** 0.5
            state[key] = torch.randn(like.shape, generator=draws, device="cpu") * deviation
        elif not like.is_floating_point():
            state[key] = torch.zeros(like.shape, dtype=like.dtype)
        else:
            neutral = torch.ones if key.endswith(("running_var", "weight")) else torch.zeros
            state[key] = neutral(like.shape)
    return state
