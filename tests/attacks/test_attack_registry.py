import ast
import json
from pathlib import Path

import pytest
from attack_fakes import Linear, images, labels

import attacks
from attacks import registry
from attacks.base import Attack
from attacks.errors import AttackError
from attacks.threat import L2, LInf


def test_names_titles_and_summaries():
    assert {"pgd-linf", "pgd-l2"} <= set(attacks.names())
    assert list(attacks.names()) == sorted(attacks.names())
    for name in attacks.names():
        cls = registry.get_class(name)
        assert cls.name == name and cls.title and cls.summary.endswith(".") and "\n" not in cls.summary


@pytest.mark.parametrize("name", attacks.names())
def test_every_attack_describes_itself_in_json(name):
    description = attacks.get(name, image_size=128).describe()
    assert json.loads(json.dumps(description)) == description
    assert description["name"] == name
    assert {"revision", "norm", "epsilon"} <= description.keys()


def test_pgd_defaults():
    description = attacks.get("pgd-linf").describe()
    assert description == {
        "name": "pgd-linf",
        "revision": 3,
        "norm": "linf",
        "epsilon": 2 / 255,
        "steps": 40,
        "step_size": 2.5 * (2 / 255) / 40,
        "random_start": False,
        "restarts": 1,
        "keep": "best",
        "eot": 1,
        "momentum": 0.0,
        "differentiate": "auto",
        "selection_draws": 16,
        "eot_last": None,
        "schedule": "constant",
        "stochastic_steps": None,
        "smooth_map": False,
    }


def test_settings_and_epsilon_reach_the_attack():
    attack = attacks.get("pgd-l2", epsilon=0.7, steps=10, keep="last", eot=20, differentiate="surrogate", step_size=0.1)
    assert attack.threat == L2(0.7)
    assert attack.describe() | {"steps": 10, "keep": "last", "eot": 20, "step_size": 0.1} == attack.describe()
    assert attacks.get("pgd-linf", epsilon=0.1).threat == LInf(0.1)


def test_default_l2_epsilon_is_settled_by_the_images_side():
    attack = attacks.get("pgd-l2")
    with pytest.raises(AttackError, match="resolve"):
        attack.describe()
    assert attack.resolve(128).describe()["epsilon"] == pytest.approx(0.1)
    assert attack.resolve(128).describe()["step_size"] == pytest.approx(2.5 * 0.1 / 40)
    assert attacks.get("pgd-l2", image_size=256).describe()["epsilon"] == 0.2
    with pytest.raises(AttackError, match="resolve"):  # resolving makes a new attack
        attack.describe()
    x = images(2, low=0.4, high=0.6)
    change = attack(Linear(), x, labels(2)) - x
    assert change.flatten(1).norm(dim=1).tolist() == pytest.approx([0.2 * 8 / 256] * 2, rel=1e-3)


def test_an_epsilon_given_for_l2_does_not_scale():
    assert attacks.get("pgd-l2", epsilon=0.2, image_size=32).describe()["epsilon"] == 0.2


def test_unknown_names_offer_the_nearest():
    with pytest.raises(AttackError, match="'pgd-linf'"):
        attacks.get("pgd-lnf")
    with pytest.raises(AttackError, match="'steps'"):
        attacks.get("pgd-linf", step=3)
    with pytest.raises(AttackError, match="0-255"):
        attacks.get("pgd-linf", epsilon=8)
    with pytest.raises(AttackError, match="divide it by 255"):
        attacks.get("pgd-l2", epsilon=51, image_size=8)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": True},
        {"restarts": 0},
        {"eot": -1},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": float("nan")},
        {"selection_draws": 0},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"keep": "first"},
        {"differentiate": "maps"},
    ],
)
def test_nonsense_settings_are_sentences(settings):
    with pytest.raises(AttackError, match=next(iter(settings))):
        attacks.get("pgd-linf", **settings)


def test_two_attacks_cannot_share_a_name():
    class Impostor(Attack):
        name = "pgd-linf"

    with pytest.raises(ValueError, match="pgd-linf"):
        attacks.register(Impostor)
    assert registry.get_class("pgd-linf").__name__ == "PGDLInf"


def test_a_new_file_is_enough(tmp_path, monkeypatch):
    (tmp_path / "brand_new.py").write_text(
        "from attacks.pgd import PGD\nfrom attacks.registry import register\n\n"
        "@register\nclass New(PGD):\n    name = 'brand-new'\n    norm = 'linf'\n"
    )
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    assert "brand-new" in attacks.names()
    assert attacks.get("brand-new").describe()["name"] == "brand-new"


def test_a_new_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_done.py").write_text("import nothing_of_this_name\n")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    with pytest.raises(AttackError, match=r"attacks/half_done\.py cannot be imported .*nothing_of_this_name"):
        attacks.names()


def test_attacks_know_nothing_of_the_bench_and_of_detectors_only_the_noise():
    # In the sources: importing detectors.noise loads the whole package of detectors anyway.
    for path in Path(attacks.__path__[0]).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            aliases = [alias.name for alias in getattr(node, "names", [])]
            modules = [node.module] if isinstance(node, ast.ImportFrom) else aliases
            for module in modules:
                assert module.partition(".")[0] != "bench", path
                allowed = module in ("detectors.errors", "detectors.noise") or (
                    module == "detectors" and aliases[0] == "noise"
                )
                assert module.partition(".")[0] != "detectors" or allowed, path
