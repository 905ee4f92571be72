"""What trained detectors share: the loop that stops early, features kept in memory, and settings that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors import registry
from detectors.base import silent
from detectors.errors import DetectorError
from detectors.parts.features import Features
from detectors.parts.training import check_schedule, train_until_held_out_stops_improving

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


def trained(held: list[float], *, patience: int = 2) -> tuple[nn.Linear, dict[str, Any]]:
    """A layer whose bias is the epoch's number, judged by these losses."""
    layer, judged = nn.Linear(1, 1), iter(held)

    def train(epoch: int) -> list[float]:
        with torch.no_grad():
            layer.bias.fill_(epoch)
        return [0.5]

    def judge() -> list[float]:
        assert not torch.is_grad_enabled()
        return [7.0, next(judged)]  # the last one decides

    report = train_until_held_out_stops_improving(
        "mine", layer, epochs=len(held), patience=patience, train=train, judge=judge, progress=silent
    )
    return layer, report


def test_training_stops_when_the_held_out_loss_stops_falling_and_keeps_the_best_weights() -> None:
    layer, report = trained([3.0, 2.0, 1.0, 1.5, 1.2, 0.1])
    assert float(layer.bias.detach()) == 2 and report["best_epoch"] == 2 and report["held_out_loss"] == 1.0
    assert report["losses"] == [[0.5, 7.0, loss] for loss in (3.0, 2.0, 1.0, 1.5, 1.2)], "the last epoch came too late"
    layer, report = trained([3.0, 2.0, math.nan, 0.1])
    assert float(layer.bias.detach()) == 1 and len(report["losses"]) == 2, "what was best before it diverged stands"
    with pytest.raises(DetectorError, match=r"mine's training diverged.*lower its learning_rate"):
        trained([math.inf, 0.1])


def test_features_are_the_same_kept_or_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []

    def compute(some: Tensor) -> list[Tensor]:
        assert not torch.is_grad_enabled()
        calls.append(len(some))
        return [(2 * some).contiguous(memory_format=torch.channels_last), some.flatten(1)]

    kept = Features(compute, images)
    assert calls == [1, 32, 8] and kept.shapes == ((3, 4, 4), (48,)) and len(kept) == 40
    chosen = torch.tensor([39, 2, 2])
    monkeypatch.setattr("detectors.parts.features.LIMIT", 0)
    anew = Features(compute, images)
    for a, b in zip(kept[chosen], anew[chosen], strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
    assert calls[3:] == [1, 3]
