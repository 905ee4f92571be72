"""Settings of training that train nothing are refused when a detector is built."""

from __future__ import annotations

import pytest

from detectors import registry
from detectors.errors import DetectorError
from detectors.parts.training import check_schedule

WRONG = [
    ("epochs", 0, "at least 1; got 0"),
    ("batch_size", 0, "at least 1; got 0"),
    ("patience", 0, "at least 1; got 0"),
    ("learning_rate", 0.0, "above 0; got 0"),
    ("learning_rate", -1e-3, "above 0; got -0.001"),
    ("learning_rate", float("nan"), "above 0; got nan"),
    ("learning_rate", float("inf"), "above 0; got inf"),
    ("holdout", 0.0, "between 0 and 1; got 0"),
    ("holdout", 1.0, "between 0 and 1; got 1"),
    ("holdout", float("nan"), "between 0 and 1; got nan"),
]


@pytest.mark.parametrize("name", ["ae", "apae", "rae", "ocr-gan", "pls", "cflow", "fastflow", "cfa"])
@pytest.mark.parametrize(("setting", "value", "sentence"), WRONG)
def test_training_that_trains_nothing_is_refused_before_any_fit(
    name: str, setting: str, value: float, sentence: str
) -> None:
    with pytest.raises(DetectorError, match=f"^{name}'s {setting} must (be|lie) .*{sentence}"):
        registry.create(name, image_size=64, **{setting: value})


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_train(preset: str) -> None:
    for name in ("ae", "apae", "rae", "ocr-gan", "pls", "cflow", "fastflow", "cfa"):
        check_schedule(name, registry.get(name).settings_for(preset, 128))
