"""MVTec AD 2, its public part: 8 categories under several lights (Heckler-Kram et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.about import CC_BY_NC_SA, About
from bench.data.published import ByKind, by_stem
from bench.data.registry import register


@register
class MvtecAd2(ByKind):
    """Train and public test set. The private test sets have no labels (the authors' server judges them), and the
    normals in validation/ are not fitted on: neither is used.

    The name of a picture ends in its light (`000_regular.png`, `000_shift_1.png`): pictures of one number in one folder
    are of one scene.
    """

    name = "mvtec-ad-2"
    summary = "MVTec AD 2, unpacked: 8 categories, the public test set"
    about = About(
        title="MVTec AD 2",
        source="Heckler-Kram et al., arXiv:2503.21622, 2025",
        home="https://www.mvtec.com/research-teaching/datasets/mvtec-ad-2",
        licence=CC_BY_NC_SA,
        size="8,004 pictures, 30 GB",
    )
    licence = about.line
    known = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
    unpacked = ("mvtec_ad_2",)
    testing = "test_public"
    masks = "test_public/ground_truth"

    def remark(self, category: str) -> str:
        return "The public test set: figures on the private ones, which the authors' server gives, are others."

    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        return by_stem(folder / self.testing / "ground_truth" / kind, "_mask")
