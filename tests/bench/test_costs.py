"""What a plan will cost, and the order that follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.run import costs


def made(*detectors: str, **changes: Any) -> planning.Plan:
    return planning.make(RunConfig(detectors=detectors, **changes))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack of AE takes 10 s and its fit 100, one of brightness 5 s; nobody has measured the mean image."""
    images, steps = 120, 20
    rows = [
        costs.Cost("ae", "quick", 128, fit=100.0, gradient=10 / images / steps, forward=0.0, gflops=0.0),
        costs.Cost("brightness", "quick", 128, fit=0.0, gradient=5 / images / steps, forward=0.0, gflops=0.0),
        costs.Cost("cflow", "quick", 128, fit=0.0, gradient=5 / images / steps, forward=0.0, gflops=0.0),
    ]
    monkeypatch.setattr(costs, "_table", lambda: rows)


@pytest.mark.usefixtures("table")
def test_a_cost_is_that_of_its_gradients_and_of_its_fit() -> None:
    plan = made("ae", "cflow", epsilons=(1 / 255, 2 / 255))
    assert costs.Estimates(plan).seconds("ae", fits=False) == pytest.approx(20)
    assert costs.Estimates(plan).seconds("ae", fits=True) == pytest.approx(120)
    assert costs.Estimates(plan).seconds("mean-image", fits=True) is None
    # Its surrogate is a monotone function of the score, and followed alone: not twice the gradients.
    assert costs.Estimates(plan).seconds("cflow", fits=False) == pytest.approx(10)


@pytest.mark.usefixtures("table")
def test_what_takes_long_or_is_not_known_goes_first_in_all_categories() -> None:
    plan = made("brightness", "ae", "mean-image")
    jobs = [planning.Job(category, name, 0) for category in ("poly", "mono") for name in plan.detectors]
    order = [jobs[i] for i in costs.longest_first(plan, jobs)]
    names = ["mean-image", "ae", "brightness"]
    assert order == [(category, name, 0) for name in names for category in ("mono", "poly")]
