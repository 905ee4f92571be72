"""RADBench: the benchmark for the adversarial robustness of image anomaly detectors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench import packages

if TYPE_CHECKING:
    from bench.api import Evaluation, evaluate, fit, test_images, transfer

__all__ = ["Evaluation", "evaluate", "fit", "test_images", "transfer"]


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: PyTorch takes seconds, in which the command line already hears Ctrl-C.

    Raises:
        ImportError: `detectors` or `attacks` is a package of somebody else.
    """
    if name in __all__:
        problem = packages.foreign()
        if problem:
            raise ImportError(problem)
        return getattr(import_module("bench.api"), name)
    try:
        return import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"bench.{name}":
            raise
        raise AttributeError(f"module 'bench' has no attribute {name!r}") from None
