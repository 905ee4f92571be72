"""Presets: one input resolution for every detector, and each detector's own settings at that size."""

from __future__ import annotations

from dataclasses import dataclass

from bench.names import unknown

# CIFAR-10 and Fashion-MNIST are attacked at their own size at `paper`: the paper's Table 14.
_NATIVE_SIDES = frozenset({"cifar10", "fashion-mnist"})


@dataclass(frozen=True)
class Preset:
    """A size of experiment.

    Attributes:
        name: also the name under which each detector keeps its settings.
        image_size: side of the input pictures in pixels; the threat model lives at this size.
        native_small: whether datasets of tiny pictures keep their own size.
        batch_size: images per attack batch; changes results by float rounding at most.
        holdout: training normals kept from every fit, to choose settings and thresholds on (a tenth of them at most).
        summary: one line for `bench list presets`.
    """

    name: str
    image_size: int
    native_small: bool
    batch_size: int
    holdout: int
    summary: str

    def side(self, dataset: str) -> int:
        """The input resolution for a dataset."""
        if self.native_small and dataset in _NATIVE_SIDES:
            # Fashion-MNIST has 28: it is enlarged, since networks halve the side several times.
            return 32
        return self.image_size


PRESETS = (
    Preset("quick", 128, False, 60, 32, "128 px, small networks, for two CPU cores (the default)"),
    Preset("paper", 256, True, 16, 0, "256 px (CIFAR-10: 32), the papers' networks and schedules, for a GPU"),
)


def get(name: str) -> Preset:
    """The preset of that name. Raises UnknownNameError."""
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise unknown("preset", name, [p.name for p in PRESETS])
