"""Where experiments of the paper are looked at and run: what `python -m bench reproduce` is asked, and its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import files
from bench.cli.screen import Screen
from bench.data import registry as datasets
from bench.errors import BenchError
from bench.names import unknown
from bench.records import certificate_store
from bench.records.certificate import Certificate
from bench.records.record import Record
from bench.records.store import read_all

OWN = Path("results/records")
RECORDS, CERTIFICATES = OWN.name, certificate_store.FOLDER
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # of a clone; an installed package has none


@dataclass(frozen=True)
class Where:
    """Where and how the experiments are looked at and run: the options of the command. What is done in one process is
    done on the first of the devices. `read`: the records of the folders that were looked into; each is recounted from
    its scores as it is read, which for all tables one after the other took minutes."""

    records: Path | None
    preset: str
    protocol: str
    image_size: int | None
    dataset: str | None
    data_root: Path | None
    categories: tuple[str, ...] | None
    limit: int | None
    devices: tuple[str, ...]
    workers: int | None
    run: bool
    dry_run: bool
    out: Path
    cache: Path | None
    detector: str | None = None
    read: dict[Path, tuple[list[Record], list[str]]] = field(default_factory=dict, compare=False)

    def has_run(self) -> None:
        """Forget what was read before: a run has written records."""
        self.read.clear()


def categories_of(where: Where, papers: tuple[str, ...], papers_dataset: str) -> tuple[str, tuple[str, ...]]:
    """The data set and the categories that are looked at. Raises BenchError where the data set lacks one, or lies in a
    place that was not named though its categories have to be known."""
    name = where.dataset or papers_dataset
    if name == papers_dataset and (where.categories is None or set(where.categories) <= set(papers)):
        return name, where.categories or papers
    known = check_categories(where, name)
    return name, where.categories or known or datasets.get(name, where.data_root).categories()


def check_categories(where: Where, dataset: str) -> tuple[str, ...]:
    """What is known of the data set's categories (`known_categories`). Raises UnknownNameError, with the nearest name,
    where one was asked for that it has not."""
    known = known_categories(dataset, where.data_root)
    for category in (where.categories or ()) if known else ():
        if category not in known:
            raise unknown(f"category of {dataset}", category, known)
    return known


def known_categories(dataset: str, root: Path | None) -> tuple[str, ...]:
    """A data set's categories: those of the paper's are known by name, without their pictures. () where it lies in a
    place that was not named. Raises BenchError where it is none, or not there."""
    # Not at the top: the package needs pandas, and no other command does.
    from bench.report.paper import tables

    by_name = {"mvtec": tables.MVTEC, "cifar10": tables.CIFAR10}
    if root is None and datasets.find(dataset).needs_root:
        return by_name.get(dataset, ())
    return datasets.get(dataset, root).categories()


def records_of(where: Where, console: Screen) -> tuple[list[Record], list[str]]:
    """The records that are compared, and a sentence about each one that does not count."""
    named, folders = where.records, _folders(where, RECORDS)
    found: list[Record] = []
    problems: list[str] = []
    for folder in folders:
        if folder not in where.read:
            where.read[folder] = read_all(folder)
        some, wrong = where.read[folder]
        found, problems = found + some, problems + wrong
    if named is not None and not found and not problems and not where.run:
        why = "There are no records in" if folders else "There is no folder"
        raise BenchError(
            f"{why} {files.shortened(named)}; name the folder that a run wrote to (--out), or leave --records out."
        )
    _say_folders("Records", folders if found else [], console)
    return found, problems


def certificates_of(where: Where, console: Screen) -> tuple[list[Certificate], list[str]]:
    """The certificates that are compared, from beside the records, and a sentence about each one that does not
    count."""
    named, folders = where.records, _folders(where, CERTIFICATES)
    found: dict[str, Certificate] = {}
    problems: list[str] = []
    for folder in folders:
        some, wrong = certificate_store.read_all(folder)
        problems += wrong
        for one in some:  # a clone's may be among one's own as well
            other = found.get(one.key)
            if other is None or one.written > other.written:
                found[one.key] = one
    if named is not None and not found and not problems and not where.run:
        more = "name the folder that `certify` wrote to (--out), or leave --records out."
        if not named.is_dir():
            raise BenchError(f"There is no folder {files.shortened(named)}; {more}")
        problems.append(f"There are no certificates in {files.shortened(named)}; {more}")
    _say_folders("Certificates", folders if found else [], console)
    return list(found.values()), problems


def _folders(where: Where, kind: str) -> list[Path]:
    """Where records or certificates are looked for: in what was named and what a run writes to, or in one's own results
    and those of a clone."""
    named = where.records
    own = [where.out / kind] if where.out != OWN.parent else []
    if named is None:
        return [f for f in (*own, OWN.parent / kind, *sorted(REFERENCE.glob(f"*/{kind}"))) if f.is_dir()]
    # What a run wrote to (--out) is as good as the records or the certificates in it.
    is_other = named.absolute().name in {RECORDS, CERTIFICATES} - {kind}
    candidates = [named / kind, *([named.absolute().parent / kind] if is_other else []), named]
    if kind == CERTIFICATES and not any(named.glob(f"*/*/*{certificate_store.BOUNDS_SUFFIX}")):
        candidates.remove(named)  # a folder of records: each would be no certificate
    found = [folder for folder in candidates if folder.is_dir()][:1]
    return found + [folder for folder in own if where.run and folder.is_dir() and folder not in found]


def _say_folders(what: str, folders: Sequence[Path], console: Screen) -> None:
    if folders:
        own = [str(folder) for folder in folders if not folder.is_relative_to(REFERENCE)]
        clones = [folder for folder in folders if folder.is_relative_to(REFERENCE)]
        if len(clones) > 1:
            own.append(f"{len(clones)} folders of {files.shortened(REFERENCE)}")
        else:
            own += map(str, clones)
        listed = ", ".join(own)
        console.print(f"{what}: {listed}", style="dim", markup=False, highlight=False, soft_wrap=True)


def usual_protocol(preset: str) -> str:
    """The one that is taken at a preset where none is named."""
    return "paper" if preset == "paper" else "quick"


def say_commands(commands: Sequence[str], console: Screen) -> None:
    """What a user types, or --run does."""
    if commands:
        console.print("To run what is missing (or --run):", highlight=False)
    for command in commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
