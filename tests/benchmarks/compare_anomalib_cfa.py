"""Our CFA beside anomalib's (2.7.0): the same frozen network, data, size, epochs and batch; a CSV row per category.

    PYTHONPATH=. python tests/benchmarks/compare_anomalib_cfa.py --dataset elpv --categories mono
    PYTHONPATH=. python tests/benchmarks/compare_anomalib_cfa.py --dataset mvtec --data-root FOLDER --categories screw

Columns: clean AUC of ours; of anomalib's with weights that it learned itself, under its own smoothing (4 pixels at any
size) and under ours; the largest relative difference of its maps to ours, under our weights, before the smoothing;
seconds of CPU time for either fit. Needs `pip install anomalib`. What differs otherwise: its bank also holds the images
that we keep to stop early on, its radius is not learned, and its blur mirrors the map without the row at the edge.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from anomalib.models.image.cfa import torch_model
from anomalib.models.image.cfa.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.cfa.loss import CfaLoss
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import bench
import detectors
from bench.data import registry as datasets
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from detectors.cfa import CFA, CFASettings
from detectors.parts.backbone import Backbone


class _Extractor(nn.Module):
    """Our backbone, as anomalib's feature extractors speak: layer names to maps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.backbone.layers, self.backbone(x), strict=True))


def untrained(settings: CFASettings, backbone: Backbone) -> Any:
    """anomalib's model on our backbone; its own table of networks knows only three."""
    with mock.patch.object(torch_model, "get_feature_extractor", lambda *_: _Extractor(backbone)):
        model = torch_model.CfaModel(
            "resnet18",
            settings.gamma_c,
            settings.gamma_d,
            settings.neighbours,
            settings.hard_negatives,
            settings.radius,
        )
    channels = sum(backbone.channels)
    model.descriptor.layer = torch_model.CoordConv2d(channels, channels // settings.gamma_d, kernel_size=1)
    return model


def trained(ours: CFA, normals: Tensor, *, epochs: int) -> Any:
    """As its Lightning module trains it, without Lightning."""
    settings: CFASettings = ours.settings
    torch.manual_seed(0)
    model = untrained(settings, ours.backbone)
    with mock.patch.object(torch_model, "get_return_nodes", lambda _: list(ours.backbone.layers)):
        model.initialize_centroid([SimpleNamespace(image=part) for part in normals.split(settings.batch_size)])
    loss_of = CfaLoss(settings.neighbours, settings.hard_negatives, settings.radius)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, amsgrad=True
    )
    model.train()
    for _ in range(epochs):
        for indices in torch.randperm(len(normals)).split(settings.batch_size):
            loss = loss_of(model(normals[indices]))
            optimiser.zero_grad()
            loss.backward(retain_graph=True)
            optimiser.step()
    return model.eval()


def with_our_weights(ours: CFA) -> Any:
    model = untrained(ours.settings, ours.backbone)
    *features, column, row = ours.descriptor.linear.weight.unbind(dim=1)
    convolution = model.descriptor.layer.conv2d
    with torch.no_grad():
        # Rows come first there.
        convolution.weight.copy_(torch.stack([*features, row, column], dim=1)[:, :, None, None])
        convolution.bias.copy_(ours.descriptor.linear.bias)
    model.memory_bank = ours.bank.T.clone()
    return model.eval()


@torch.no_grad()
def scores(model: Any, x: Tensor, *, sigma: float | None = None) -> Tensor:
    if sigma is not None:
        model.anomaly_map_generator = AnomalyMapGenerator(model.num_nearest_neighbors, sigma=sigma)
    if isinstance(model, CFA):
        return torch.cat([model.score(part) for part in x.split(16)])
    return torch.cat([model(part).pred_score for part in x.split(16)])


@torch.no_grad()
def largest_gap(ours: CFA, x: Tensor) -> float:
    model, gap = with_our_weights(ours), 0.0
    for part in x.split(16):
        features = model.descriptor(list(model.feature_extractor(part).values()))
        theirs = model.anomaly_map_generator.compute_score(model.compute_distance(features), features.shape[-2:])
        gap = max(gap, float((theirs[:, 0] / ours._coarse_map(part) - 1).abs().max()))
    return gap


def auc(labels: Tensor, found: Tensor) -> str:
    return f"{100 * roc_auc_score((labels < 0).numpy(), found.numpy()):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--categories", default="mono", help="separated by commas")
    parser.add_argument("--image-size", type=int, default=128)
    arguments = parser.parse_args()
    side, root = arguments.image_size, arguments.data_root
    writer = csv.writer(sys.stdout)
    writer.writerow(
        [
            "dataset",
            "category",
            "image_size",
            "epochs",
            "auc_ours",
            "auc_anomalib",
            "auc_anomalib_our_smoothing",
            "relative_gap_same_weights",
            "fit_seconds_ours",
            "fit_seconds_anomalib",
        ]
    )
    for category in arguments.categories.split(","):
        run = RunConfig(detectors=("cfa",), dataset=arguments.dataset, data_root=root)
        normals = training_data(datasets.get(arguments.dataset, root), category, side, run).fit.pixels()
        x, labels = bench.test_images(arguments.dataset, category, data_root=root, image_size=side)
        ours = detectors.create("cfa", image_size=side)
        assert isinstance(ours, CFA)
        started = time.process_time()
        ours.fit(normals, seed=0)
        fitted = time.process_time()
        epochs = len(ours.fit_report["losses"])
        theirs = trained(ours, normals, epochs=epochs)
        ended = time.process_time()
        sigma = ours.settings.sigma * side / 256
        writer.writerow(
            [
                arguments.dataset,
                category,
                side,
                epochs,
                auc(labels, scores(ours, x)),
                auc(labels, scores(theirs, x)),
                auc(labels, scores(theirs, x, sigma=sigma)),
                f"{largest_gap(ours, x):.1e}",
                f"{fitted - started:.1f}",
                f"{ended - fitted:.1f}",
            ]
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
