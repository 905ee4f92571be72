"""The datasets by name. A new one is one new file in this folder with a class under `@register`."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TypeVar

from bench.data.base import Dataset
from bench.data.reading import Reading
from bench.errors import DataError
from bench.names import unknown

D = TypeVar("D", bound=type[Dataset])

_datasets: dict[str, type[Dataset]] = {}


def register(dataset: D) -> D:
    """Class decorator: makes a dataset known under its `name`."""
    if dataset.name in _datasets:
        raise ValueError(f"two datasets are named {dataset.name!r}")
    _datasets[dataset.name] = dataset
    return dataset


def names() -> tuple[str, ...]:
    """All dataset names, sorted."""
    _import_all()
    return tuple(sorted(_datasets))


def find(name: str) -> type[Dataset]:
    """The class of a dataset, for its summary and licence; UnknownNameError with the nearest name."""
    if name not in names():
        raise unknown("dataset", name, names())
    return _datasets[name]


def get(name: str, root: str | Path | None = None, reading: Reading | None = None) -> Dataset:
    """The dataset `name`, read from `root`; UnknownNameError, or DataError where it needs a root and got none, or where
    `reading` asks for what only others can do."""
    return find(name)(root, reading)


@cache
def _import_all() -> None:
    folder = str(Path(__file__).parent)
    for module in pkgutil.iter_modules([folder]):
        try:
            importlib.import_module(f"bench.data.{module.name}")
        except (Exception, SystemExit) as error:  # somebody's new file
            raise DataError(
                f"bench/data/{module.name}.py cannot be imported ({type(error).__name__}: {error}); mend it, or take "
                "it out of the folder."
            ) from error
