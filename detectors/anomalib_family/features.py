"""RADBench's pretrained backbones in the place of anomalib's feature extractors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.errors import DetectorError
from detectors.parts.backbone import Backbone


class Features(nn.Module):
    """Stands where a model of anomalib keeps its extractor: x (B, 3, H, W) in [0, 1] to a dict of feature maps.

    anomalib runs extractors under `no_grad`, which cuts the gradient without a word. Here the graph is built exactly
    where the input has one, whatever mode the caller is in.

    Attributes:
        layers: the keys of the result. out_dims: channels. reductions: input pixels per feature, along a side.
    """

    def __init__(self, backbone: Backbone, *, keys: Sequence[str] | None = None, widths: Sequence[int] = ()) -> None:
        """
        Args:
            backbone: frozen.
            keys: names of the layers in anomalib's words; None: the backbone's.
            widths: channels that the model insists on (see `_widened`); empty: the backbone's own.

        Raises:
            DetectorError: a layer's features are no maps.
        """
        super().__init__()
        self.backbone = backbone
        self.layers = list(keys or backbone.layers)
        self.widths = tuple(widths)
        self.out_dims = list(widths or backbone.channels)
        self.reductions = [64 // maps.shape[-1] for maps in backbone.blank_maps(64)]
        # What `timm`'s and anomalib's own extractors are called by.
        self.channels, self.scale_factors, self.scales = self.out_dims, self.reductions, range(len(self.out_dims))

    def check_sides(self, owner: str, side: int) -> None:
        """Raise DetectorError where maps of images of that side are not side // reduction wide.

        That is what anomalib sizes its layer norms by, while a network rounds up.
        """
        real = [maps.shape[-1] for maps in self.backbone.blank_maps(side)]
        assumed = [side // reduction for reduction in self.reductions]
        if real != assumed:
            raise DetectorError(
                f"{owner} expects features {_listed(assumed)} wide of images of {side} px and they are "
                f"{_listed(real)}: set input_size to a multiple of {max(self.reductions)}."
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(images.requires_grad):
            found = self.backbone(images)
            if self.widths:
                found = [_widened(f, width) for f, width in zip(found, self.widths, strict=True)]
            # anomalib flattens with view(): the backbone's channels-last maps need another layout.
            return {key: f.contiguous() for key, f in zip(self.layers, found, strict=True)}


def _listed(sides: Sequence[int]) -> str:
    return ", ".join(str(side) for side in sides)


def _widened(features: Tensor, width: int) -> Tensor:
    """(B, C, h, w) to (B, width, h, w): the positive and the negative part, then zeros.

    For decoders of fixed width that end in a ReLU and could not follow signed features. Nothing is lost.
    """
    both = torch.cat([features.relu(), (-features).relu()], dim=1)
    return F.pad(both, (0, 0, 0, 0, 0, width - both.shape[1]))
