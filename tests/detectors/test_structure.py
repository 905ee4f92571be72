"""Rules of the house, read off the source: where gradients by hand may be, and who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path for folder in ("attacks", "bench", "certificates", "detectors") for path in (ROOT / folder).rglob("*.py")
)
GPU = ROOT / "detectors" / "freerad" / "gpu"
# Of `detectors`: what parts may stand on.
FOUNDATIONS = {"base", "checkpoint", "errors", "files", "noise", "settings", "store"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def dotted(node: ast.AST) -> str:
    """The dotted name that a chain of attributes spells: torch.autograd.Function."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported: of "from a import b", a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def by_hand(tree: ast.AST) -> list[str]:
    """Names of what writes a gradient by hand, or may have none that PyTorch answers for."""
    names = [dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names += imports(tree)
    return [
        name
        for name in names
        if name.endswith("autograd.Function")
        or f"{name}.".startswith(("torch.autograd.function.", "torch.ops.", "torch._C.", "torch.library."))
    ]


@pytest.mark.parametrize("path", [p for p in FILES if GPU not in p.parents], ids=name_of)
def test_a_gradient_that_an_attack_follows_is_pytorchs_own(path: Path) -> None:
    """A wrong backward pass raises a robust AUC, and nobody sees it. What is by hand may train on a GPU."""
    assert not by_hand(ast.parse(path.read_text())), "the formula and autograd, please; see the test's docstring"


@pytest.mark.parametrize(
    "source",
    [
        "class F(torch.autograd.Function): ...",
        "from torch.autograd import Function",
        "from torch.autograd.function import once_differentiable",
        "y = torch.ops.aten.silu_backward(g, x)",
        "has = torch._C._has_mkldnn",
    ],
)
def test_what_is_by_hand_is_found(source: str) -> None:
    assert by_hand(ast.parse(source))


def test_scores_never_come_by_the_gpu_kernels() -> None:
    """Only what computes a training step imports them."""
    importing = {
        name_of(path)
        for path in FILES
        if GPU not in path.parents
        and any(name.startswith("detectors.freerad.gpu") for name in imports(ast.parse(path.read_text())))
    }
    assert importing == {"detectors.freerad.stepping"}
    stepping = {
        name_of(path)
        for path in FILES
        if any(name.startswith("detectors.freerad.stepping") for name in imports(ast.parse(path.read_text())))
    }
    assert stepping <= {"detectors.freerad.training", "detectors.freerad.checks"}


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "detectors")], ids=name_of)
def test_detectors_stand_on_parts_and_not_on_each_other(path: Path) -> None:
    own = name_of(path).split(".")[1:2]  # the part of `detectors` that the file belongs to; of __init__ none
    for name in imports(ast.parse(path.read_text())):
        package, _, rest = name.partition(".")
        assert package not in ("bench", "attacks"), f"{name_of(path)} imports {name}"
        if package != "detectors" or not own:
            continue
        target = rest.split(".")[0]
        if own == ["parts"]:
            assert target in FOUNDATIONS | {"parts"}, f"a part stands on {name}"
        elif own[0] not in INFRASTRUCTURE and own != ["purify"]:  # which is FreeRAD's reconstruction before another one
            assert target in INFRASTRUCTURE | {*own}, f"{name_of(path)} stands on another detector: {name}"


INFRASTRUCTURE = FOUNDATIONS | {"building", "checks", "contract", "loading", "parts", "registry"}
