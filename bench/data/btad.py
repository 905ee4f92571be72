"""BTAD, the beanTech anomaly detection data: three industrial products (Mishra et al., ISIE 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.about import CC_BY_SA, About
from bench.data.published import ByKind, by_stem
from bench.data.registry import register


@register
class Btad(ByKind):
    """Normals are `ok`, defective pictures `ko`, of one kind; pictures and masks are BMP or PNG, product by product."""

    name = "btad"
    summary = "BTAD (beanTech), unpacked: 3 industrial products"
    about = About(
        title="BTAD",
        source="Mishra et al., ISIE 2021",
        home="https://github.com/pankajmishra000/VT-ADL",
        licence=CC_BY_SA,
        size="2,540 pictures",
    )
    licence = about.line
    known = ("01", "02", "03")
    unpacked = ("BTech_Dataset_transformed",)
    training = "train/ok"
    normal = "ok"

    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        return by_stem(folder / "ground_truth" / kind)
