"""What a table of the paper measures, in the benchmark's names, and the command that measures what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.report.paper.arms import Arm, Threat, option
from bench.report.paper.claims import Claim
from bench.report.paper.printed import PaperRow, read
from bench.text import epsilon_text, norm_text

PAPER_SIZE = 256
PAPER_STEPS = 40
_PACKAGED = ("elpv",)  # what is installed with its data
Column = Literal["clean", "robust", "change", "spread", "k", "seconds"]
# Which protocol runs an experiment of a protocol of the paper's at the small preset.
AT_QUICK = {"paper": "quick", "strict": "strict-lite"}
_FOR_FEW_CORES = ("quick", "strict-lite")


@dataclass(frozen=True)
class Recipe:
    """An experiment of the paper. Change where it is done with `at_size` and `on`.

    Attributes:
        table: by which name it is asked for.
        title: as a heading.
        source: the CSV with the printed numbers; "": they are lost in the paper's text.
        dataset, categories: what is measured; categories () means all that the data set has.
        arms: the lines in each category.
        shows: which figures.
        claims: what the paper says that the table shows.
        is_papers: whether the data set, its categories and the size are the paper's.
        is_part: whether it is of some of the paper's categories: the printed averages are not of these.
        averages: whether the mean over categories is a line of the table.
        holdout: training normals that are kept from the fit to choose a setting on; None: the preset's.
        limit: at most so many images, where that is asked for.
        notes: what a reader must know.
    """

    table: str
    title: str
    source: str
    dataset: str
    categories: tuple[str, ...]
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    shows: tuple[Column, ...] = ("clean", "robust")
    image_size: int = PAPER_SIZE
    preset: str = "paper"
    protocol: str = "paper"
    is_papers: bool = True
    is_part: bool = False
    averages: bool = True
    holdout: int | None = None
    limit: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def threats(self) -> tuple[Threat, ...]:
        return tuple(dict.fromkeys(arm.threat for arm in self.arms))

    @property
    def detectors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.detector for arm in self.arms))

    @property
    def is_lost(self) -> bool:
        """Whether none of its numbers survived in the paper's text."""
        return not self.source

    def printed(self) -> list[PaperRow]:
        """The table as printed, its averages included; empty where the numbers are lost or of other data."""
        if self.is_lost or not self.is_papers:
            return []
        return read(self.source, category=self.categories[0], norm=self.threats[0].norm)

    def protocol_of(self, threat: Threat) -> str:
        wanted = threat.protocol or self.protocol
        return AT_QUICK.get(wanted, wanted) if self.protocol in _FOR_FEW_CORES else wanted

    def at_size(self, image_size: int, *, preset: str, protocol: str) -> Recipe:
        """The same table at another resolution: l2 radii scale with the side, l-inf radii stay."""
        scale = image_size / self.image_size
        arms = tuple(replace(arm, threat=arm.threat.scaled(scale)) for arm in self.arms)
        changed = replace(self, arms=arms, image_size=image_size, preset=preset, protocol=protocol)
        balls = dict.fromkeys(
            f"{norm_text(t.norm)} {epsilon_text(t.epsilon, t.norm)}" for t in changed.threats if t.epsilon > 0
        )
        # What stands under "ours" is then not the paper's experiment, and the title says so.
        told = ", ".join([f"preset {preset}, protocol {protocol}, {image_size} pixels", *balls])
        before = f"{self.title}; " if "Ours: " in self.title else f"{self.title}. Ours: "
        return replace(changed, title=f"{before}{told}")

    def on(self, dataset: str, categories: Sequence[str]) -> Recipe:
        """The same experiment on other pictures, beside which the paper's numbers would mean nothing."""
        if (dataset, tuple(categories)) == (self.dataset, self.categories):
            return self
        is_part = dataset == self.dataset and set(categories) <= set(self.categories)
        is_elsewhere = dataset != self.dataset
        other = ", which is not the paper's data" if is_elsewhere else f" {', '.join(categories)}"
        title = f"{self.title}. Ours: {dataset}{other}"
        title += "" if is_part or is_elsewhere else ", of which this table of the paper says nothing"
        return replace(
            self,
            title=title,
            dataset=dataset,
            categories=tuple(categories),
            is_papers=is_part,
            is_part=is_part,
        )


@dataclass(frozen=True)
class Wanted:
    """A run that is missing: what one call of `python -m bench run` does.

    Attributes:
        threat, epsilon, protocol: how it attacks.
        categories, detectors: what.
        settings: of detectors, as `--set` takes them.
        dataset, preset, image_size, holdout, limit: of the recipe.
    """

    threat: Threat
    epsilon: float
    protocol: str
    categories: tuple[str, ...]
    detectors: tuple[str, ...]
    settings: tuple[str, ...]
    dataset: str
    preset: str
    image_size: int
    holdout: int | None = None
    limit: int | None = None

    def command(self) -> str:
        """As a user would type it."""
        root = "" if self.dataset in _PACKAGED else " --data-root DIR"
        words = [
            f"python -m bench run --dataset {self.dataset}{root} --categories {','.join(self.categories)}",
            f"--detectors {','.join(self.detectors)} --attack {self.threat.attack}",
            f"--epsilon {epsilon_text(self.epsilon, self.threat.norm)}",
            *(f"--eot {self.threat.eot}" for _ in range(self.threat.eot is not None)),
            *("--bpda" for _ in range(self.threat.bpda)),
            *(f"{option(name)} {value}" for name, value in self.threat.options),
            *(f"--set {setting}" for setting in self.settings),
            f"--preset {self.preset} --protocol {self.protocol} --image-size {self.image_size}",
            *(f"--holdout {self.holdout}" for _ in range(self.holdout is not None)),
            *(f"--limit {self.limit}" for _ in range(self.limit is not None)),
        ]
        return " ".join(words)


def wanted(recipe: Recipe, missing: Iterable[tuple[str, Arm]]) -> list[Wanted]:
    """The runs that measure missing cells (category, arm): one for each attack, radius and set of settings."""
    groups: dict[tuple[Threat, tuple[str, ...]], list[tuple[str, Arm]]] = {}
    for category, arm in missing:
        settings = tuple(f"{arm.detector}.{name}={value}" for name, value in arm.settings)
        groups.setdefault((arm.threat, settings), []).append((category, arm))
    found = []
    for (threat, settings), cells in groups.items():
        categories = tuple(c for c in recipe.categories if c in {category for category, _ in cells})
        detectors = tuple(d for d in recipe.detectors if d in {arm.detector for _, arm in cells})
        for epsilon in [threat.epsilon, *([threat.also] if threat.also is not None else [])]:
            found.append(
                Wanted(
                    threat,
                    epsilon,
                    recipe.protocol_of(threat),
                    categories,
                    detectors,
                    settings,
                    recipe.dataset,
                    recipe.preset,
                    recipe.image_size,
                    recipe.holdout,
                    recipe.limit,
                )
            )
    return found
