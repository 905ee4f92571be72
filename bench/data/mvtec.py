"""MVTec AD: 15 categories of industrial objects and textures with pixel masks (Bergmann et al., CVPR 2019)."""

from bench.data.folder import Folder
from bench.data.registry import register


@register
class Mvtec(Folder):
    """`root` is the unpacked dataset, or one of its category folders."""

    name = "mvtec"
    summary = "MVTec AD, unpacked: 15 categories of industrial objects and textures"
    licence = (
        "MVTec AD, pictures resized: Bergmann et al., CVPR 2019, "
        "https://www.mvtec.com/company/research/datasets/mvtec-ad, CC BY-NC-SA 4.0 "
        "(https://creativecommons.org/licenses/by-nc-sa/4.0/)"
    )
