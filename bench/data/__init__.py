"""Datasets: one file each, behind one registry.

dataset = bench.data.load("elpv")
normals = dataset.train("mono", 128)                  # ImageSet of normal training images
test = dataset.test("mono", 128, per_class=20)        # at most 20 normals and 20 anomalies
"""

from bench.data.base import ANOMALOUS, NORMAL, Dataset, ImageSet
from bench.data.images import read_image, read_rgb_tensor
from bench.data.registry import get, names, register
from bench.data.registry import get as load

__all__ = [
    "ANOMALOUS",
    "NORMAL",
    "Dataset",
    "ImageSet",
    "get",
    "load",
    "names",
    "read_image",
    "read_rgb_tensor",
    "register",
]
