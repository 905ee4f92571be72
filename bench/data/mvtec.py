"""MVTec AD: 15 categories of industrial objects and textures with pixel masks (Bergmann et al., CVPR 2019)."""

from bench.data.about import CC_BY_NC_SA, About
from bench.data.folder import Folder
from bench.data.registry import register


@register
class Mvtec(Folder):
    """`root` is the unpacked dataset, or one of its category folders."""

    name = "mvtec"
    summary = "MVTec AD, unpacked: 15 categories of industrial objects and textures"
    about = About(
        title="MVTec AD",
        source="Bergmann et al., CVPR 2019",
        home="https://www.mvtec.com/research-teaching/datasets/mvtec-ad",
        licence=CC_BY_NC_SA,
        size="5,354 pictures, 4.9 GB",
    )
    licence = about.line
