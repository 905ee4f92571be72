"""Unfitted detectors with a run's settings, and what can be found wrong with them before any picture is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import detectors
from bench.data.base import Dataset
from bench.errors import BenchError
from bench.plan.request import RunConfig
from bench.plan.split import held_out_count
from bench.text import one_line, plural
from detectors import building
from detectors.base import Detector
from detectors.errors import DetectorError
from detectors.registry import override

OPEN_SETTING_REVISION = 3  # of how the suite chooses settings that are "auto"
LEAST_HELD_OUT = 4  # normals to choose one on


def build(name: str, category: str, image_size: int, run: RunConfig) -> Detector:
    """The unfitted detector with the run's settings for this category. Raises DetectorError, WeightsError."""
    cls = detectors.get(name)
    try:
        settings = cls.settings_for(run.preset, image_size)
    except DetectorError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's
        raise BenchError(
            f"{name} has no settings for {image_size} px at the preset {run.preset} ({one_line(error, 200)}); leave it "
            "out of --detectors."
        ) from error
    return building.build(cls, override(settings, run.overrides_for(name, category), owner=name), image_size)


def check_counts(detectors_of: Sequence[Detector], dataset: Dataset, category: str, run: RunConfig) -> None:
    """Raise BenchError, before any picture is decoded, where one of the detectors would get too few normals."""
    normals = len(dataset.train_ids(category, limit=run.limit))
    held_out = held_out_count(normals, run)
    lacking = [f"{d.name} needs {d.min_normals}" for d in detectors_of if d.min_normals > normals - held_out]
    if lacking:
        kept = f" ({held_out} more are kept for --holdout)" if held_out else ""
        limit = "" if run.limit is None else f", raise --limit {run.limit}"
        there = f"There {'is' if normals - held_out == 1 else 'are'} {plural(normals - held_out, 'normal image')}"
        raise BenchError(
            f"{there} of {category} to fit on{kept} and {', '.join(lacking)}; add images"
            f"{limit}, or leave {'it' if len(lacking) == 1 else 'them'} out of --detectors."
        )
    for detector in detectors_of:
        _check_limit(detector, held_out, dataset, category, run)
        check_open_setting(detector, held_out)


def open_setting(detector: Detector) -> str | None:
    """The name of the setting that is to be chosen, or None."""
    for field in fields(detector.settings):
        if getattr(detector.settings, field.name) == "auto" and field.name in detector.auto_choices:
            return field.name
    return None


def check_open_setting(detector: Detector, held_out: int) -> None:
    """Raise BenchError where the detector has an open setting and too few held-out normals to choose it on."""
    setting = open_setting(detector)
    if setting is not None and held_out < LEAST_HELD_OUT:
        raise BenchError(
            f"{detector.name}.{setting} = auto is chosen on training normals that are kept from the fit; there are "
            f"{held_out} ({LEAST_HELD_OUT} are needed, a tenth of all at most): keep some with --holdout 32, add "
            f"normals, or set a number with --set {detector.name}.{setting}=100."
        )


def _check_limit(detector: Detector, held_out: int, dataset: Dataset, category: str, run: RunConfig) -> None:
    """Raise BenchError where nothing but --limit leaves too few held-out normals to choose an open setting on."""
    setting, all_normals = open_setting(detector), len(dataset.train_ids(category))
    enough = held_out_count(all_normals, run)  # without the limit
    if setting is None or run.limit is None or held_out >= LEAST_HELD_OUT or enough < LEAST_HELD_OUT:
        return
    raise BenchError(
        f"{detector.name}.{setting} = auto is chosen on training normals that are kept from the fit, {LEAST_HELD_OUT} "
        f"at least and a tenth of all at most, and --limit {run.limit} leaves {held_out} of the {enough} that there "
        f"would be: leave --limit out, make it at least {10 * LEAST_HELD_OUT}, or, of a run of your own, set a number "
        f"with --set {detector.name}.{setting}=100."
    )
