"""RADBench's pretrained backbones in the place of anomalib's feature extractors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._backbones import Backbone


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
        """
        super().__init__()
        self.backbone = backbone
        self.layers = list(keys or backbone.layers)
        self.widths = tuple(widths)
        self.out_dims = list(widths or backbone.channels)
        with torch.no_grad():
            self.reductions = [64 // f.shape[-1] for f in backbone(torch.full((1, 3, 64, 64), 0.5))]
        # What `timm`'s and anomalib's own extractors are called by.
        self.channels, self.scale_factors, self.scales = self.out_dims, self.reductions, range(len(self.out_dims))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(images.requires_grad):
            found = self.backbone(images)
            if self.widths:
                found = [_widened(f, width) for f, width in zip(found, self.widths, strict=True)]
            # anomalib flattens with view(): the backbone's channels-last maps need another layout.
            return {key: f.contiguous() for key, f in zip(self.layers, found, strict=True)}


def _widened(features: Tensor, width: int) -> Tensor:
    """(B, C, h, w) to (B, width, h, w): the positive and the negative part, then zeros.

    For decoders of fixed width that end in a ReLU and could not follow signed features. Nothing is lost.
    """
    both = torch.cat([features.relu(), (-features).relu()], dim=1)
    return F.pad(both, (0, 0, 0, 0, 0, width - both.shape[1]))
