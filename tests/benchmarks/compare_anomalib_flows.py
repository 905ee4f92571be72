"""Our CFlow and FastFlow beside anomalib's: clean AUC with the same backbone, images and number of epochs.

    python tests/benchmarks/compare_anomalib_flows.py --category elpv:mono --category mvtec:screw:PATH_TO_MVTEC

Prints one CSV row per detector and category. anomalib's models and losses are its own, on our backbone's features (it
only offers its own backbones); only the training loops stand here, since its trainer wants a data module. Ours are at
their quick settings; anomalib's have the same number of blocks, epochs and learning rate (at its own of 1e-4 its CFlow
would learn nothing in so few epochs), and its own widths, permutations and, for CFlow, features that are not
standardised.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.data import registry as datasets
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from detectors import registry
from detectors.noise import generator
from detectors.parts.training import batches

SIDE = 128


class Encoder(nn.Module):
    """Our backbone, answering as anomalib's: a list, or a dictionary by layer."""

    def __init__(self, backbone: Any, *, named: bool) -> None:
        super().__init__()
        self.backbone, self.named = backbone, named

    def forward(self, x: Tensor) -> Any:
        found = [features.contiguous() for features in self.backbone(x)]
        return dict(zip(self.backbone.layers, found, strict=True)) if self.named else found


def anomalibs_fastflow(ours: Any, normals: Tensor, epochs: int, learning_rate: float) -> nn.Module:
    """Adam with weight decay 1e-5 on its loss, as in its Lightning module."""
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import FastflowModel, create_fast_flow_block

    model = FastflowModel((SIDE, SIDE), "resnet18", pre_trained=False)
    model.feature_extractor = Encoder(ours.backbone, named=False)
    shapes = [list(norm.normalized_shape) for norm in ours.norms]
    model.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
    settings = ours.settings
    model.fast_flow_blocks = nn.ModuleList(
        create_fast_flow_block(shape, settings.only_3x3, 1.0, settings.flow_steps) for shape in shapes
    )
    trained = [*model.norms.parameters(), *model.fast_flow_blocks.parameters()]
    optimiser = torch.optim.Adam(trained, lr=learning_rate, weight_decay=1e-5)
    for epoch in range(epochs):
        for indices in batches(len(normals), settings.batch_size, generator(0, "order", epoch)):
            loss = FastflowLoss()(*model.train()(normals[indices]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def anomalibs_cflow(ours: Any, normals: Tensor, epochs: int, learning_rate: float) -> nn.Module:
    """Adam on -log sigmoid(log p / C) of random fibers, as in its Lightning module, with our share of the fibers."""
    from anomalib.models.image.cflow.torch_model import CflowModel
    from anomalib.models.image.cflow.utils import cflow_head, get_logp, positional_encoding_2d

    settings = ours.settings
    model = CflowModel("resnet18", ["layer1"], pre_trained=False, fiber_batch_size=8192)
    model.encoder = Encoder(ours.backbone, named=True)
    model.pool_layers = list(settings.layers)
    model.anomaly_map_generator.pool_layers = model.pool_layers
    model.decoders = nn.ModuleList(
        cflow_head(settings.condition, settings.blocks, settings.clamp, channels) for channels in ours.backbone.channels
    )
    optimiser = torch.optim.Adam(model.decoders.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        draws = generator(0, "order", epoch)
        for indices in batches(len(normals), settings.batch_size, draws):
            with torch.no_grad():
                features = list(model.encoder(normals[indices]).values())
            for decoder, layer in zip(model.decoders, features, strict=True):
                channels, height, width = layer.shape[1:]
                vectors = layer.permute(0, 2, 3, 1).reshape(-1, channels)
                code = positional_encoding_2d(settings.condition, height, width).flatten(1).T.repeat(len(layer), 1)
                order = torch.randperm(len(vectors), generator=draws)[: round(settings.share * len(vectors))]
                for chosen in order.split(settings.fibers):
                    z, log_determinant = decoder(vectors[chosen], [code[chosen]])
                    loss = -F.logsigmoid(get_logp(channels, z, log_determinant) / channels).mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
    return model.eval()


def compare(name: str, category: str, limit: int | None, epochs: int | None, learning_rate: float | None) -> str:
    """One row of the table."""
    dataset, short, *root = category.split(":", 2)
    source = datasets.get(dataset, Path(root[0]) if root else None)
    run = RunConfig(detectors=(name,), dataset=dataset, data_root=Path(root[0]) if root else None, limit=limit)
    normals = training_data(source, short, SIDE, run).fit.pixels()
    test = source.test(short, SIDE, per_class=60)
    images, anomalous = test.pixels(), (test.labels == -1).numpy()
    ours = registry.create(name, image_size=SIDE, **({} if epochs is None else {"epochs": epochs}))
    started = time.process_time()
    ours.fit(normals, seed=0)
    middle = time.process_time()
    torch.manual_seed(0)  # anomalib draws from the global state
    count = len(ours.fit_report["losses"])
    train = anomalibs_fastflow if name == "fastflow" else anomalibs_cflow
    theirs = train(ours, normals, count, learning_rate or ours.settings.learning_rate)
    seconds = middle - started, time.process_time() - middle
    with torch.no_grad():
        scores = torch.cat([ours.score(part) for part in images.split(20)])
        # One batch: anomalib's CFlow takes its constants from it, as the authors' code does from the test set.
        others = theirs(images).pred_score.flatten()
    aucs = [100 * roc_auc_score(anomalous, s.numpy()) for s in (scores, others)]
    figures = (*aucs, *seconds)
    return ",".join([name, dataset, short, str(len(normals)), str(count), *(f"{figure:.1f}" for figure in figures)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", action="append", choices=["cflow", "fastflow"])
    parser.add_argument("--category", action="append", help="dataset:category[:folder]; elpv:mono by default")
    parser.add_argument("--limit", type=int, help="at most so many training normals")
    parser.add_argument("--epochs", type=int, help="of both (default: our quick setting)")
    parser.add_argument("--learning-rate", type=float, help="of anomalib's (default: our quick setting)")
    given = parser.parse_args()
    sys.stdout.write("detector,dataset,category,normals,epochs,ours_auc,anomalib_auc,ours_seconds,anomalib_seconds\n")
    for category in given.category or ["elpv:mono"]:
        for name in given.detector or ["fastflow", "cflow"]:
            row = compare(name, category, given.limit, given.epochs, given.learning_rate)
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
