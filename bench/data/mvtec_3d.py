"""MVTec 3D-AD, its colour pictures alone (Bergmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.about import CC_BY_NC_SA, About
from bench.data.published import ByKind, by_stem
from bench.data.registry import register


@register
class Mvtec3d(ByKind):
    """Of each scan the colour picture in rgb/; the positions in xyz/ are not read. The normals in validation/ are not
    fitted on, and not used."""

    name = "mvtec-3d"
    summary = "MVTec 3D-AD, unpacked: 10 categories, colour pictures without depth"
    about = About(
        title="MVTec 3D-AD",
        source="Bergmann et al., VISAPP 2022",
        home="https://www.mvtec.com/research-teaching/datasets/mvtec-3d-ad",
        licence=CC_BY_NC_SA,
        size="4,147 scans",
    )
    licence = about.line
    known = (
        "bagel",
        "cable_gland",
        "carrot",
        "cookie",
        "dowel",
        "foam",
        "peach",
        "potato",
        "rope",
        "tire",
    )
    unpacked = ("mvtec_3d_anomaly_detection",)
    inner = "rgb"

    def remark(self, category: str) -> str:
        return "Colour pictures alone: defects of shape that only the depth shows count as defects, too."

    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        return by_stem(folder / self.testing / kind / "gt")
