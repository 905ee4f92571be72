"""`k: auto` on detectors whose behaviour at every candidate is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from bench.cell import choose_setting
from bench.data.base import ImageSet
from bench.errors import BenchError
from bench.plan.build import open_setting
from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise

SIDE = 32
BLIND, FRAGILE, STURDY, WRONG = 1, 2, 3, 4


@dataclass(frozen=True)
class KnownSettings(Settings):
    k: int | str = "auto"


class Known(Detector):
    """On uniform grey pictures: one candidate sees nothing, one sees defects until it is attacked, one sees them
    always, one has it the wrong way round."""

    name = "known"
    title = "Known"
    paper = "none"
    is_stochastic = True
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {"k": (BLIND, FRAGILE, STURDY, WRONG)}

    def __init__(self, settings: KnownSettings | None = None, image_size: int = SIDE) -> None:
        super().__init__(settings or KnownSettings(), image_size)
        self.scale = nn.Parameter(torch.ones(1))
        self.k = 0
        self.chosen: list[tuple[int, int, int]] = []
        self.drawn: set[tuple[str, tuple[int, ...], bytes]] = set()
        rows = torch.arange(SIDE)
        self.register_buffer("checkers", ((rows[:, None] + rows[None]) % 2 * 2 - 1).float())

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> KnownSettings:
        return KnownSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        pass

    def choose(self, setting: str, value: int, normals: Tensor, *, seed: int) -> Self:
        assert setting == "k"
        self.k = value
        self.chosen.append((value, len(normals), seed))
        return self

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        self.drawn |= {(image_id, noise.draw, noise.key) for image_id in noise.image_ids}
        z = 1e-4 * noise.normal((), stream="score", like=x)
        contrast = x.flatten(1).amax(dim=1) - x.flatten(1).amin(dim=1)
        if self.k == BLIND:
            return z + 0 * contrast
        if self.k == FRAGILE:  # a pattern that no painter paints, but any attacker does
            return contrast + 200 * (x.mean(dim=1) * self.checkers.to(x)).mean(dim=(1, 2)) + z
        return -contrast if self.k == WRONG else contrast + 200 * z  # sturdy, but not the best on clean images


def _greys(count: int, first: int = 0) -> ImageSet:
    levels = torch.linspace(100, 150, count).to(torch.uint8)
    return ImageSet(
        ids=tuple(f"train/good/{first + i:03}.png" for i in range(count)),
        images=levels[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous(),
        labels=torch.ones(count, dtype=torch.int8),
        defects=("good",) * count,
        masks=None,
    )


def _silent(done: int, total: int, note: str = "") -> None:
    pass


@pytest.fixture(scope="module")
def outcome() -> tuple[Known, dict[str, object], list[tuple[int, int, str]]]:
    fitted_on = _greys(20)
    detector = Known().fit(fitted_on.pixels(), seed=3)
    said: list[tuple[int, int, str]] = []
    before = torch.random.get_rng_state()
    report = choose_setting.choose(
        detector,
        fitted_on,
        _greys(20, first=20),
        seed=3,
        progress=lambda done, total, note="": said.append((done, total, note)),
    )
    assert torch.equal(before, torch.random.get_rng_state())
    return detector, report, said


def test_the_best_mean_of_clean_and_robust_wins_not_the_best_clean(
    outcome: tuple[Known, dict[str, object], list[tuple[int, int, str]]],
) -> None:
    _, report, _ = outcome
    table = report["table"]
    assert isinstance(table, list)
    rows = {row["k"]: row for row in table}
    assert set(rows) == {BLIND, FRAGILE, STURDY, WRONG}
    assert 25 < rows[BLIND]["clean_auc"] < 75
    assert rows[FRAGILE]["clean_auc"] > 99 and rows[FRAGILE]["robust_auc"] < 20
    assert 75 < rows[STURDY]["clean_auc"] < rows[FRAGILE]["clean_auc"] and rows[STURDY]["robust_auc"] > 70
    assert rows[WRONG]["clean_auc"] == 0 == rows[WRONG]["robust_auc"]
    assert report["chosen"] == STURDY and report["setting"] == "k"


def test_the_chosen_candidate_is_what_the_detector_is_left_with(
    outcome: tuple[Known, dict[str, object], list[tuple[int, int, str]]],
) -> None:
    detector, _, said = outcome
    assert detector.k == STURDY
    # Every candidate in turn and then the winner, always on the images of the fit and with its seed.
    assert detector.chosen == [(k, 20, 3) for k in (BLIND, FRAGILE, STURDY, WRONG, STURDY)]
    assert [(done, total) for done, total, _ in said] == [(i, 4) for i in (1, 2, 3, 4)]


def test_the_table_says_what_it_was_judged_on(
    outcome: tuple[Known, dict[str, object], list[tuple[int, int, str]]],
) -> None:
    _, report, _ = outcome
    budget = {"steps": 12, "eot": 1, "eot_last": 4, "momentum": 0.9, "schedule": "cosine", "keep": "last"}
    assert report["attack"] == {"name": "pgd-linf", **budget} and report["draws"] == 5
    assert "20 held-out training normals" in str(report["judged_on"])


def test_attack_selection_and_verdict_draw_from_different_sources(
    outcome: tuple[Known, dict[str, object], list[tuple[int, int, str]]],
) -> None:
    detector, _, _ = outcome
    verdict = [drawn for drawn in detector.drawn if drawn[1] in {(d,) for d in range(1, 5)}]
    ids = {f"train/good/{20 + i:03}.png{suffix}" for i in range(20) for suffix in ("", " painted")}
    for draw in range(1, 5):
        assert {image_id for image_id, path, _ in verdict if path == (draw,)} == ids
    verdict_keys = {key for _, _, key in verdict}
    others = {key for _, path, key in detector.drawn if len(path) > 1}
    assert len(verdict_keys) == 1 and others and not (verdict_keys & others)


def test_too_few_held_out_normals_are_refused_with_a_way_out() -> None:
    detector = Known().fit(_greys(20).pixels(), seed=0)
    with pytest.raises(BenchError, match=r"--set known\.k=100"):
        choose_setting.choose(detector, _greys(20), _greys(3, first=20), seed=0, progress=_silent)
    assert detector.chosen == []


def test_only_a_setting_that_is_auto_is_open() -> None:
    assert open_setting(Known()) == "k"
    decided = Known(KnownSettings(k=5))
    assert open_setting(decided) is None
    with pytest.raises(ValueError, match="no setting that is 'auto'"):
        choose_setting.choose(decided, _greys(20), _greys(8, first=20), seed=0, progress=_silent)
