"""What a plan refuses, and what it says of itself: mistakes here make robust AUCs that mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bench_fakes as fakes
import pytest

import attacks
from attacks.errors import AttackError
from bench.errors import BenchError
from bench.plan import cells, presets, protocols
from bench.plan import plan as planning
from bench.plan.request import Override, RunConfig


def run(**changes: Any) -> RunConfig:
    return fakes.asked_for(**({"detectors": ("brightness",), "categories": ("mono",)} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": ("pgd-linf", "pgd-l2"), "epsilons": (2 / 255,)},
        {"attacks": ("pgd-linf", "pgd-l2"), "step_size": 0.001},
    ],
)
def test_one_radius_is_never_used_for_two_norms(changes: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="one norm"):
        planning.make(run(**changes))


@pytest.mark.parametrize(("attack", "epsilon"), [("pgd-linf", 1.0), ("pgd-l2", 51.0)])
def test_radii_from_the_0_255_scale_are_refused(attack: str, epsilon: float) -> None:
    with pytest.raises(BenchError, match="0-255"):
        planning.make(run(attacks=(attack,), epsilons=(epsilon,)))


def test_a_run_at_the_protocols_own_settings_is_a_full_run() -> None:
    assert planning.make(run()).limits_of("brightness", "mono") == []


@pytest.mark.parametrize(
    "changes",
    [{"limit": 12}, {"steps": 3}, {"step_size": 1e-7}, {"keep": "last"}, {"image_size": 64}, {"holdout": 4}],
)
def test_whatever_departs_from_protocol_or_preset_marks_the_run(changes: dict[str, Any]) -> None:
    assert len(planning.make(run(**changes)).limits_of("brightness", "mono")) == 1


def test_a_detectors_changed_settings_mark_its_own_cells_only() -> None:
    config = run(detectors=("ae", "brightness"), overrides=(Override("ae", "epochs", None, 1),))
    plan = planning.make(config)
    assert "epochs" in plan.limits_of("ae", "mono")[0]
    assert plan.limits_of("brightness", "mono") == []


def test_whether_a_detector_draws_noise_is_asked_of_its_settings() -> None:
    """Costs follow it: verdict draws and EOT multiply the work of a detector that draws noise."""
    assert planning.make(run(detectors=("ocr-gan", "freerad"))).stochastic == {"freerad"}
    random = (Override("ocr-gan", "channel_selection", None, "random"),)
    assert planning.make(run(detectors=("ocr-gan",), overrides=random)).stochastic == {"ocr-gan"}


def test_more_steps_are_a_full_run_that_does_not_claim_the_protocols_steps() -> None:
    plan = planning.make(run(steps=100))
    assert plan.limits == []
    assert "20 steps" not in cells._statement(plan.run, protocols.get("quick"), plan.attacks[0])
    assert "20 steps" in cells._statement(run(), protocols.get("quick"), plan.attacks[0])


def test_each_autoattack_goes_to_the_detectors_that_it_is_for() -> None:
    both = ("autoattack-linf", "autoattack-rand-linf")
    plan = planning.make(run(detectors=("ae", "freerad"), attacks=both, protocol="strict-lite"))
    assert [attack.name for attack in plan.attacks_on("ae")] == ["autoattack-linf"]
    assert [attack.name for attack in plan.attacks_on("freerad")] == ["autoattack-rand-linf"]
    assert plan.cells == 2 and plan.limits == []
    assert plan.attacks_on("ae")[0].settings.queries == 1000


@pytest.mark.parametrize(
    ("detector", "attack", "right"),
    [("freerad", "autoattack-linf", "autoattack-rand-linf"), ("ae", "autoattack-rand-l2", "autoattack-l2")],
)
def test_a_detector_that_is_left_without_an_attack_is_told_the_right_one(
    detector: str, attack: str, right: str
) -> None:
    with pytest.raises(AttackError, match=f"use {right}"):
        planning.make(run(detectors=(detector,), attacks=(attack,)))


def test_another_attack_makes_no_strict_run_and_more_queries_do() -> None:
    assert "autoattack" in planning.make(run(protocol="strict")).limits[0]
    assert planning.make(run(protocol="strict", attacks=("autoattack-linf",))).limits == []
    assert planning.make(run(attacks=("square-linf",))).limits == [], "quick speaks of PGD and asks for no attack"


def test_the_words_of_a_protocol_stand_beside_its_own_attacks_alone() -> None:
    strict = run(protocol="strict", attacks=("autoattack-linf", "pgd-linf"))
    ensemble, pgd = planning.make(strict).attacks
    assert "AutoAttack" in cells._statement(strict, protocols.get("strict"), ensemble)
    assert "described above" in cells._statement(strict, protocols.get("strict"), pgd)


def test_random_start_and_keep_reach_the_attack() -> None:
    (attack,) = planning.make(run(random_start=True, keep="last")).attacks
    assert attack.settings.random_start and attack.settings.keep == "last"


def test_no_category_is_not_all_categories() -> None:
    with pytest.raises(BenchError, match="category"):
        planning.make(replace(run(), categories=()))


def test_small_pictures_keep_their_size_at_paper_alone() -> None:
    assert presets.get("paper").side("cifar10") == 32
    assert presets.get("quick").side("cifar10") == 128


def test_the_quick_protocol_averages_gradients_over_draws_and_steps_and_other_averages_are_no_full_run() -> None:
    def limits(detector: str = "freerad", **changes: Any) -> list[str]:
        return planning.make(run(detectors=("freerad", "brightness"), **changes)).limits_of(detector, "mono")

    described = planning.make(run()).attacks[0].describe()
    assert (described["eot"], described["eot_last"], described["momentum"]) == (2, 6, 0.9) and limits() == []
    changed = {"eot": 1, "eot_last": 1, "momentum": 0.5}
    assert planning.make(run(eot=1, momentum=0.5)).attacks[0].describe() == described | changed
    assert "30 gradients for each image, fewer than the protocol's 120" in limits(eot=1)[0]
    assert "76 gradients for each image, fewer" in limits(steps=19, eot=4)[0]
    for restarts in (1, 3):
        (limit,) = limits("brightness", steps=10, restarts=restarts)
        assert "10 gradients for each image, fewer than the protocol's 20" in limit
    assert "--momentum 0.5: not the protocol's 0.9" in limits(momentum=0.5)[0]
    assert limits(eot=5) == [] and limits("brightness", eot=1, momentum=0.0) == []
    assert planning.make(run(protocol="paper")).attacks[0].describe()["momentum"] == 0


def test_a_number_of_steps_that_the_user_gives_is_every_detectors() -> None:
    (attack,) = planning.make(run(steps=60, eot=4)).attacks
    assert (attack.settings.steps, attack.settings.stochastic_steps) == (60, 60)
    assert attack.gradients(is_stochastic=True) == 240 and attack.gradients(is_stochastic=False) == 60


def test_options_that_change_nothing_do_not_mark_a_run() -> None:
    """The record that they leave is one that a plain run takes over."""
    same = (Override("ae", "epochs", None, planning.build("ae", "mono", 128, run()).settings.epochs),)
    config = run(
        detectors=("ae", "cflow"),
        eot=2,
        momentum=0.9,
        steps=20,
        keep="best",
        holdout=32,
        differentiate="surrogate",
        overrides=same,
    )
    plan = planning.make(config)
    assert plan.limits_of("ae", "mono") == [] and plan.limits_of("cflow", "mono") == []
    assert cells._statement(config, protocols.get("quick"), attacks.get("pgd-linf")) == protocols.get("quick").statement
    assert (
        "--gradient score"
        in planning.make(replace(config, attack_settings={"differentiate": "score"})).limits_of("cflow", "mono")[0]
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "--steps must be at least 1; got 0."),
        ({"restarts": 0}, "--restarts must be at least 1; got 0."),
        ({"eot": -1}, "--eot must be at least 1; got -1."),
        ({"momentum": 1.0}, "--momentum is a number from 0 to below 1; got 1.0."),
        ({"step_size": 0.0}, "--step-size is a number above 0 on the [0, 1] pixel scale; got 0.0."),
        ({"differentiate": "both"}, "--gradient is one of auto, score, surrogate, map; got 'both'."),
    ],
)
def test_a_setting_that_no_attack_could_have_is_a_sentence_about_its_option(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BenchError) as caught:
        RunConfig(("ae",), attack_settings=settings)
    assert str(caught.value) == sentence


def test_every_departure_from_the_protocol_is_named_by_its_option_and_in_this_order() -> None:
    config = run(
        detectors=("cflow", "freerad"),
        steps=19,
        eot=1,
        step_size=1e-3,
        keep="last",
        momentum=0.5,
        restarts=3,
        random_start=True,
        differentiate="score",
    )
    plan = planning.make(config)
    general = [
        "--step-size 0.001: not the protocol's 2.5 epsilon / steps",
        "--keep last: the protocol keeps the best iterate",
    ]
    assert plan.limits == general
    assert plan.limits_of("cflow", "mono") == [
        *general,
        "--steps or --eot: 19 gradients for each image, fewer than the protocol's 20",
        "--gradient score: the protocol follows the surrogate's",
    ]
    assert plan.limits_of("freerad", "mono") == [
        *general,
        "--steps or --eot: 19 gradients for each image, fewer than the protocol's 120",
        "--momentum 0.5: not the protocol's 0.9",
        "--gradient score: the protocol follows that of a smooth maximum of the map",
    ]
    with pytest.raises(BenchError, match=r"^--epsilon and --step-size belong to one norm; run the attacks of each"):
        planning.make(run(attacks=("all",), step_size=0.001))


@pytest.mark.parametrize(
    ("detector", "gradient", "sentence"),
    [
        # What is not there is not followed: the score's is, and that must not pass for the protocol's.
        ("apae", "map", "--gradient map: the protocol follows the score's and the surrogate's"),
        ("cflow", "map", "--gradient map: the protocol follows the surrogate's"),
        ("freerad", "surrogate", "--gradient surrogate: the protocol follows that of a smooth maximum of the map"),
        ("freerad", "map", ""),
        ("cflow", "surrogate", ""),
        ("spade", "map", ""),
        ("spade", "surrogate", ""),
        ("brightness", "score", ""),
    ],
)
def test_a_gradient_that_is_asked_for_counts_by_what_is_followed(detector: str, gradient: str, sentence: str) -> None:
    limits = planning.make(run(detectors=(detector,), differentiate=gradient)).limits_of(detector, "mono")
    assert limits == ([sentence] if sentence else [])


def test_the_map_of_a_random_detector_whose_score_is_no_maximum_is_a_departure(register: Any) -> None:
    class Mean(fakes.Noisy):
        name = "mean-of-map"
        has_map = True

    register(Mean)
    limits = planning.make(run(detectors=("mean-of-map",), differentiate="map")).limits_of("mean-of-map", "mono")
    assert limits == ["--gradient map: the protocol follows the score's"]


def test_a_record_names_what_was_changed_and_not_what_was_typed() -> None:
    quick = protocols.get("quick")
    assert quick.stated({"steps": 20, "keep": "best", "eot": 2, "differentiate": "score"}) == {}
    asked = {"steps": 21, "eot": 3, "restarts": 2, "random_start": True, "step_size": 0.01, "keep": "last"}
    assert quick.stated(asked) == asked
    settings = quick.settings(quick.changed(asked))
    assert (settings["stochastic_steps"], settings["eot_last"], settings["momentum"]) == (21, 3, 0.9)
    assert quick.settings({})["stochastic_steps"] == 30, "of a number that was not changed, both are the protocol's"


def test_an_attacks_settings_are_no_detectors_settings() -> None:
    with pytest.raises(BenchError, match=r"--set is for detectors, and 'pgd-linf' is an attack: .*--steps"):
        planning.make(run(overrides=(Override("pgd-linf", "steps", None, 3),)))
