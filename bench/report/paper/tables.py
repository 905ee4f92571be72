"""The paper's surviving tables beside one's own records: 1, 2, 3 (MVTec AD) and 14 (CIFAR-10); 6 is `certified`.

The numbers lie in the CSV files beside this module. An empty cell is unreadable in the paper's text; it stays unknown
and never becomes zero. The printed averages do not all follow from the rows, so both are shown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files

from bench.errors import UnknownNameError
from bench.names import unknown
from bench.text import epsilon_text

AVERAGE = "Average"
DETECTORS = {
    "OCR-GAN": "ocr-gan",
    "SPADE": "spade",
    "CFlow": "cflow",
    "FastFlow": "fastflow",
    "CFA": "cfa",
    "FreeRAD": "freerad",
}
_CIFAR10 = {"Plane": "airplane", "Car": "automobile"}
PAPER_SIZE = 256
PAPER_STEPS = 40


@dataclass(frozen=True)
class Threat:
    """One ball of a table. `epsilon` is on the [0, 1] scale at the recipe's resolution; `also` is a second radius whose
    figure is shown beside it (Table 14: the radius that has equal energy per pixel)."""

    attack: str
    norm: str
    epsilon: float
    also: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What a table measures, in the benchmark's names. Change a field with `dataclasses.replace` to look at records of
    another preset: an l2 radius then scales with the side unless the recipe says that it is native."""

    table: str
    title: str
    source: str
    dataset: str
    categories: tuple[str, ...]
    detectors: tuple[str, ...]
    threats: tuple[Threat, ...]
    image_size: int = PAPER_SIZE
    preset: str = "paper"
    protocol: str = "paper"

    def commands(self, missing: Iterable[tuple[str, str, Threat]]) -> list[str]:
        """The commands that run missing cells (category, detector, threat), one per ball."""
        cells = list(missing)
        lines = []
        for threat in self.threats:
            own = [(category, detector) for category, detector, t in cells if t == threat]
            for epsilon in [threat.epsilon, threat.also] if own else []:
                if epsilon is not None:
                    categories = ",".join(c for c in self.categories if c in {category for category, _ in own})
                    detectors = ",".join(d for d in self.detectors if d in {detector for _, detector in own})
                    lines.append(
                        f"python -m bench run --dataset {self.dataset} --data-root DIR --categories {categories} "
                        f"--detectors {detectors} --attack {threat.attack} "
                        f"--epsilon {epsilon_text(epsilon, threat.norm)} --preset {self.preset} "
                        f"--protocol {self.protocol} --image-size {self.image_size}"
                    )
        return lines

    def at_size(self, image_size: int, *, preset: str, protocol: str) -> Recipe:
        """The same table at another resolution: l2 radii scale with the side, l-inf radii stay."""
        scale = image_size / self.image_size
        threats = self.threats
        if scale != 1.0:
            threats = tuple(replace(t, epsilon=t.epsilon * scale, also=None) if t.norm == "l2" else t for t in threats)
        radii = ", ".join(f"{t.norm} {epsilon_text(t.epsilon, t.norm)}" for t in threats)
        # What stands under "ours" is then not the paper's experiment, and the title says so.
        title = f"{self.title}. Ours: preset {preset}, protocol {protocol}, {image_size} pixels, {radii}"
        return replace(self, title=title, threats=threats, image_size=image_size, preset=preset, protocol=protocol)


@dataclass(frozen=True)
class PaperRow:
    """One cell of a table as printed, in per cent; None is unreadable."""

    category: str
    detector: str
    norm: str
    clean: float | None
    robust: float | None


MVTEC = (
    "carpet",
    "grid",
    "leather",
    "tile",
    "wood",
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)
CIFAR10 = ("bird", "airplane", "automobile", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LINF = Threat("pgd-linf", "linf", 2 / 255)
L2 = Threat("pgd-l2", "l2", 0.2)
_ALL = tuple(DETECTORS.values())

RECIPES = {
    recipe.table: recipe
    for recipe in (
        Recipe(
            "table1",
            "Table 1: Toothbrush, l-inf PGD, epsilon 2/255",
            "table1_toothbrush_linf.csv",
            "mvtec",
            ("toothbrush",),
            _ALL[:-1],
            (LINF,),
        ),
        Recipe(
            "table2",
            "Table 2: MVTec AD, l-inf PGD, epsilon 2/255",
            "table2_pgd_linf_mvtec.csv",
            "mvtec",
            MVTEC,
            _ALL,
            (LINF,),
        ),
        Recipe(
            "table3", "Table 3: MVTec AD, l2 PGD, epsilon 0.2", "table3_pgd_l2_mvtec.csv", "mvtec", MVTEC, _ALL, (L2,)
        ),
        # 0.2 at CIFAR-10's own 32 pixels is what the paper's figures suggest; the second radius is 0.2 * 32 / 256.
        Recipe(
            "table14",
            "Table 14: CIFAR-10 novelty detection, PGD at 32 pixels",
            "table14_cifar10.csv",
            "cifar10",
            CIFAR10,
            ("fastflow", "cfa", "freerad"),
            (LINF, replace(L2, also=0.2 * 32 / PAPER_SIZE)),
            32,
        ),
    )
}


def recipe_of(table: str) -> Recipe:
    """Raises UnknownNameError where the table did not survive or does not exist."""
    if table not in RECIPES:
        error: UnknownNameError = unknown("table", table, (*RECIPES, "table6"))
        raise error
    return RECIPES[table]


def paper_rows(recipe: Recipe) -> list[PaperRow]:
    """The table as printed, its averages included, names as in the registry ("Metal Nut" is metal_nut)."""
    text = files("bench.report.paper").joinpath(recipe.source).read_text(encoding="utf-8")
    only = recipe.threats[0].norm
    return [
        PaperRow(
            _category(line.get("category") or recipe.categories[0]),
            DETECTORS[line["detector"]],
            line.get("norm") or only,
            _number(line["standard_auc"]),
            _number(line["robust_auc"]),
        )
        for line in csv.DictReader(text.splitlines())
    ]


def computed_average(values: Iterable[float | None]) -> float | None:
    """The mean of a column; None where a cell is unreadable, since the mean of the rest is another quantity."""
    known = list(values)
    present = [value for value in known if value is not None]
    return sum(present) / len(present) if present and len(present) == len(known) else None


def implied_value(printed_average: float, values: Iterable[float | None]) -> float | None:
    """What the one unreadable cell of a column must have been for the printed average to hold; else None."""
    known = list(values)
    present = [value for value in known if value is not None]
    return printed_average * len(known) - sum(present) if len(known) - len(present) == 1 else None


def with_repeated_clean(rows: list[PaperRow]) -> list[PaperRow]:
    """Unreadable clean figures taken over from the same detector and category under the other norm: clean AUC does not
    depend on the attack (Table 14: Bird)."""
    known = {(r.category, r.detector): r.clean for r in rows if r.clean is not None}
    return [replace(r, clean=known.get((r.category, r.detector))) if r.clean is None else r for r in rows]


def _category(printed: str) -> str:
    return printed if printed == AVERAGE else _CIFAR10.get(printed, printed.lower().replace(" ", "_"))


def _number(text: str | None) -> float | None:
    return float(text) if text and text.strip() else None
