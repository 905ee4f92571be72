"""`python -m bench inspect`: a report on each category of a dataset, for people who are about to believe a figure."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench.data import registry as datasets
from bench.data.base import Dataset, ImageSet, Split
from bench.errors import DataError
from bench.inspection import inspection
from bench.inspection.inspection import Inspection
from bench.plan import presets
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from bench.text import one_line


def inspect(run: RunConfig, console: Console) -> int:
    """Print a report on each category of a run: all training normals, and all test images that any run would use.

    Returns:
        The exit code: 2 where a run would refuse one of them.

    Raises:
        BenchError: the dataset or a category is not there.
    """
    dataset = datasets.get(run.dataset, run.data_root, run.reading)
    categories = tuple(dict.fromkeys(run.categories or dataset.categories()))
    for category in categories:
        dataset.check_category(category)
    size = run.image_size or presets.get(run.preset).side(run.dataset)
    refused = False
    for category in categories:
        try:
            data = training_data(dataset, category, size, run)
            test = dataset.test(category, size, per_class=run.limit)
            found = inspection.inspect(dataset, category, (data.fit, data.held_out), test)
        except DataError as error:
            _say(console, f"{one_line(category, 40)}: a run would stop here.", "bold red")
            _say(console, one_line(error, 1000), indent=2)
            for finding in dataset.findings(category):
                _say(console, f"LOOK {finding.kind}: {finding.sentence}", "bold yellow", indent=2)
            refused = True
            continue
        _report(dataset, found, test, console)
        refused = refused or bool(found.refusals)
    return 2 if refused else 0


def _report(dataset: Dataset, found: Inspection, test: ImageSet, console: Console) -> None:
    split = dataset.split(found.category)
    _say(console, f"{one_line(found.category, 40)}: {found.head}", "bold")
    for line in (_kinds(split), _masks(split, test), _groups(split), _separability(found)):
        _say(console, line, indent=2)
    if not found.findings:
        _say(console, "Nothing odd.", indent=2)
    for finding in found.findings:
        mark, style = ("REFUSED", "bold red") if finding.refuses else ("LOOK", "bold yellow")
        _say(console, f"{mark} {finding.kind}: {finding.sentence}", style, indent=2)
    if dataset.remark(found.category):
        _say(console, f"Remark: {one_line(dataset.remark(found.category))}", indent=2)


def _kinds(split: Split) -> str:
    kinds = Counter(sample.defect for sample in split.anomalies)
    listed = ", ".join(f"{one_line(kind, 30)} {count}" for kind, count in sorted(kinds.items())[:20])
    more = f" and {len(kinds) - 20} more kinds" if len(kinds) > 20 else ""
    return f"Pictures: train {len(split.train)}; test: good {len(split.normals)}, {listed}{more}."


def _masks(split: Split, test: ImageSet) -> str:
    masks = len(split.anomalies) - split.unmasked
    if not masks:
        return "Masks: none, so there are no pixel metrics."
    share = (
        f"; they mark {100 * float(test.masks[test.labels == -1].float().mean()):.1f} %"
        if test.masks is not None
        else ""
    )
    return f"Masks: {masks} of {len(split.anomalies)} anomalous pictures have one{share}."


def _groups(split: Split) -> str:
    train, test = ({sample.group for sample in samples if sample.group} for samples in (split.train, split.test))
    if not train | test:
        return "Groups: none are known (groups.csv or --group-pattern would say which pictures share a part or a lot)."
    return f"Groups: {len(train)} in train, {len(test)} in test, {len(train & test)} in both."


def _separability(found: Inspection) -> str:
    values = ", ".join(f"{name} {value:.0f}" for name, value in found.separability.items())
    return f"Classes told apart without looking (AUC or 100 - AUC; 50 is chance): {values}."


def _say(console: Console, text: str, style: str = "", *, indent: int = 0) -> None:
    console.print(Padding(Text(text, style=style), (0, 0, 0, indent)))
