"""`torchattacks:NAME`: torchattacks' attacks on a score (an extra: `pip install 'radbench[torchattacks]'`).

Those that stay in a ball are offered, each as `torchattacks_adapter` makes it; the others are refused by name with the
reason. Settings that PGD has too are called as PGD's (`step_size`, `eot`, `restarts`), so that the command line's
options reach them; the others as torchattacks calls them. Where an l2 attack is the same class as the l-inf one, it is
NAME with L2 behind it, as torchattacks writes it (PGDL2, APGDL2, SquareL2).

torchattacks itself is imported only when one of its attacks is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from attacks.base import Attack
from attacks.errors import AttackError
from attacks.registry import Family, register_family
from attacks.torchattacks_adapter import Member, TorchattacksAttack, TorchattacksSettings

PREFIX = "torchattacks"
REVISION = 1  # of all members

_NAMES = {"step_size": "alpha", "eot": "eot_iter", "restarts": "n_restarts", "queries": "n_queries"}
_STEPS = {"steps": 10, "step_size": None}
_MOMENTUM = {**_STEPS, "decay": 1.0}
_DIVERSE = {**_STEPS, "decay": 0.0, "resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
_VARIANCE = {**_MOMENTUM, "N": 5, "beta": 1.5}
_SMOOTHED = {**_STEPS, "noise_sd": 0.5, "noise_batch_size": 5}
_PATCHES = {"steps": 10, "amplification": 10.0}
_APGD = {"steps": 100, "restarts": 1, "eot": 1, "rho": 0.75}  # 100 as its authors; torchattacks' own default is 10
_SQUARE = {"queries": 5000, "restarts": 1, "p_init": 0.8}


def _member(kind: str, paper: str, settings: Mapping[str, Any], *, norm: str = "linf", **more: Any) -> Member:
    arguments = {**_NAMES, **more.pop("arguments", {})}
    return Member(kind, norm, paper, MappingProxyType(dict(settings)), arguments, **more)


OFFERED: Mapping[str, Member] = {
    "FGSM": _member("FGSM", "Goodfellow et al. 2015", {}),
    "BIM": _member("BIM", "Kurakin et al. 2017", _STEPS),
    "RFGSM": _member("RFGSM", "Tramèr et al. 2018", _STEPS, draws=True),
    "FFGSM": _member("FFGSM", "Wong et al. 2020", {"step_size": None}, step=1.25, draws=True),
    "PGD": _member("PGD", "Madry et al. 2018", {**_STEPS, "random_start": True}, draws="random_start"),
    "PGDL2": _member("PGDL2", "Madry et al. 2018", {**_STEPS, "random_start": True}, norm="l2", draws="random_start"),
    "EOTPGD": _member(
        "EOTPGD",
        "Zimmermann 2019",
        {**_STEPS, "eot": 2, "random_start": True},
        draws="random_start",
        gradients=("eot",),
    ),
    "UPGD": _member(
        "UPGD",
        "torchattacks",
        {**_MOMENTUM, "eot": 1, "random_start": False},
        draws="random_start",
        gradients=("eot",),
    ),
    "MIFGSM": _member("MIFGSM", "Dong et al. 2018", _MOMENTUM),
    "NIFGSM": _member("NIFGSM", "Lin et al. 2020", _MOMENTUM),
    "SINIFGSM": _member("SINIFGSM", "Lin et al. 2020", {**_MOMENTUM, "m": 5}, gradients=("m",)),
    "VMIFGSM": _member("VMIFGSM", "Wang & He 2021", _VARIANCE, draws=True, gradients=("N",), extra_gradients="step"),
    "VNIFGSM": _member("VNIFGSM", "Wang & He 2021", _VARIANCE, draws=True, gradients=("N",), extra_gradients="step"),
    "DIFGSM": _member("DIFGSM", "Xie et al. 2019", _DIVERSE, draws=True),
    "TIFGSM": _member("TIFGSM", "Dong et al. 2019", _DIVERSE, draws=True, in_float32=True),
    "PIFGSM": _member(
        "PIFGSM",
        "Gao et al. 2020",
        _PATCHES,
        arguments={"steps": "num_iter_set", "epsilon": "max_epsilon"},
        in_float32=True,
    ),
    "PIFGSMPP": _member(
        "PIFGSMPP",
        "Gao et al. 2021",
        {**_PATCHES, "project_factor": 0.8},
        arguments={"steps": "num_iter_set", "epsilon": "max_epsilon"},
        in_float32=True,
    ),
    "PGDRS": _member("PGDRS", "Salman et al. 2019", _SMOOTHED, draws=True, gradients=("noise_batch_size",)),
    "PGDRSL2": _member(
        "PGDRSL2", "Salman et al. 2019", _SMOOTHED, norm="l2", draws=True, gradients=("noise_batch_size",)
    ),
    "SPSA": _member(
        "SPSA",
        "Uesato et al. 2018",
        {**_STEPS, "delta": 0.01, "samples": 128},
        arguments={"steps": "nb_iter", "step_size": "lr", "samples": "nb_sample"},
        draws=True,
        gradients=None,
    ),
    "APGD": _member(
        "APGD",
        "Croce & Hein 2020",
        _APGD,
        draws=True,
        gradients=("eot",),
        extra_gradients="start",
        asks_for_best=True,
        fixed={"norm": "Linf"},
    ),
    "APGDL2": _member(
        "APGD",
        "Croce & Hein 2020",
        _APGD,
        norm="l2",
        draws=True,
        gradients=("eot",),
        extra_gradients="start",
        asks_for_best=True,
        fixed={"norm": "L2"},
    ),
    "Square": _member(
        "Square",
        "Andriushchenko et al. 2020",
        _SQUARE,
        draws=True,
        gradients=None,
        stops=True,
        fixed={"norm": "Linf"},
    ),
    "SquareL2": _member(
        "Square",
        "Andriushchenko et al. 2020",
        _SQUARE,
        norm="l2",
        draws=True,
        gradients=None,
        stops=True,
        fixed={"norm": "L2"},
    ),
}

_NO_BALL = "it looks for the nearest image of another class and takes no epsilon, so nothing keeps it in the ball"
_TWO_CLASSES = "its loss needs three classes or more and raises IndexError on two"
_PIXELS = "it changes a few pixels as much as it likes and takes no epsilon"
_WRAPPER = "it is made of other attacks; run those"
REFUSED: Mapping[str, str] = {
    "VANILA": "it returns the clean image",
    "GN": "it adds noise of any length; noise-linf and noise-l2 stay in the ball",
    "TPGD": "it moves away from the clean output whichever way that is, and knows no label",
    "Jitter": "it divides the logits by the largest of them, and of two nothing is left then but their order",
    "FAB": "it looks for the nearest image across a threshold, which is no ranking",
    "APGDT": _TWO_CLASSES,
    "AutoAttack": "two of its members fail on two classes, and its APGD runs 10 steps of 100; take autoattack-linf",
    "CW": _NO_BALL,
    "DeepFool": _NO_BALL,
    "EADEN": _NO_BALL,
    "EADL1": _NO_BALL,
    "SparseFool": _PIXELS,
    "OnePixel": _PIXELS,
    "Pixle": _PIXELS,
    "JSMA": _PIXELS,
    "MultiAttack": _WRAPPER,
    "LGV": "it trains the network further; a fitted detector stays as it is",
}


def is_installed() -> bool:
    """Whether the extra is there; does not import it."""
    return find_spec("torchattacks") is not None


def members() -> tuple[str, ...]:
    """The attacks that are offered; none where torchattacks is not installed."""
    return tuple(OFFERED) if is_installed() else ()


def make(member: str) -> type[Attack]:
    """The class of "torchattacks:member". Raises AttackError where it is refused, unknown or not installed."""
    if member in REFUSED:
        raise AttackError(f"{PREFIX}:{member} is refused: {REFUSED[member]}.")
    if member not in OFFERED:
        known = {name.casefold(): name for name in (*REFUSED, *OFFERED)}
        near = known[difflib.get_close_matches(member.casefold(), list(known), n=1, cutoff=0.0)[0]]
        raise AttackError(f"There is no {PREFIX}:{member}; did you mean '{PREFIX}:{near}'?")
    if not is_installed():
        raise AttackError("torchattacks is not installed; pip install 'radbench[torchattacks]'")
    return _class_of(member)


@cache
def _class_of(name: str) -> type[Attack]:
    member = OFFERED[name]
    settings = make_dataclass(
        f"{name}Settings",
        [(setting, Any, field(default=usual)) for setting, usual in member.settings.items()],
        bases=(TorchattacksSettings,),
        frozen=True,
        namespace={"__module__": __name__, "__doc__": f"Settings of torchattacks' {name}."},
    )
    norm = {"linf": "l-inf", "l2": "l2"}[member.norm]
    own = name.removesuffix("L2")
    return type(
        f"Torchattacks{name}",
        (TorchattacksAttack,),
        {
            "__module__": __name__,
            "__doc__": f"torchattacks' {own} ({member.paper}) in the {norm} ball.",
            "name": f"{PREFIX}:{name}",
            "title": f"torchattacks' {own} ({norm})",
            "summary": f"torchattacks' {own} ({member.paper}) in the {norm} ball.",
            "norm": member.norm,
            "revision": REVISION,
            "member": member,
            "settings_class": settings,
            "budget_settings": tuple(s for s in ("steps", "eot", "queries", "samples") if s in member.settings),
            "length_settings": tuple(s for s in ("step_size",) if s in member.settings),
        },
    )


FAMILY = register_family(
    Family(
        PREFIX,
        members,
        make,
        "torchattacks' attacks that stay in a ball, on the score as two logits",
        REFUSED,
        dict.fromkeys(OFFERED, REVISION),
    )
)
