"""MVTec LOCO AD: defects of structure, and pictures that break a rule of what belongs where (Bergmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.about import CC_BY_NC_SA, About
from bench.data.images import MASK_EXTENSIONS
from bench.data.listing import entries
from bench.data.published import ByKind
from bench.data.registry import register


@register
class MvtecLoco(ByKind):
    """The kinds of defect are `logical_anomalies` and `structural_anomalies`.

    ground_truth/<kind>/<picture>/ holds one mask for each defect of a picture; they are united. The saturation that
    the authors give each kind of defect belongs to their own metric (sPRO), which is not computed here. The normals in
    validation/ are for choosing a threshold or a scale: they are not fitted on, and not used.
    """

    name = "mvtec-loco"
    summary = "MVTec LOCO AD, unpacked: 5 categories, logical and structural defects"
    about = About(
        title="MVTec LOCO AD",
        source="Bergmann et al., IJCV 2022",
        home="https://www.mvtec.com/research-teaching/datasets/mvtec-loco-ad",
        licence=CC_BY_NC_SA,
        size="3,644 pictures",
    )
    licence = about.line
    known = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
    unpacked = ("mvtec_loco_anomaly_detection",)

    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        own = (path for path in entries(folder / "ground_truth" / kind) if path.is_dir())
        return {path.name: [p for p in entries(path) if p.suffix.lower() in MASK_EXTENSIONS] for path in own}
