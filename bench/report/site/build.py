"""The folder of a site: each file written atomically, the first page last, and what no record is behind any more taken
away. Nothing else in the folder is touched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from bench import files
from bench.errors import BenchError, DiskError
from bench.records import certificate_store, limits
from bench.records.paths import SCORES_SUFFIX, companion, safe_name
from bench.records.record import Record, Revisions
from bench.report.drawn import is_drawn
from bench.report.site import names, pages
from bench.report.site.found import TRANSFER, Found, of, read
from bench.report.site.sources import forget
from bench.text import escape_csv, one_line
from detectors.checkpoint import TEMPORARY, write_atomically
from detectors.files import read_ordinary

log = logging.getLogger(__name__)
FOLDER = "site"  # below a folder of results
SOURCES = ("records", certificate_store.FOLDER, TRANSFER)  # of which one at least has to be there
LISTED = ".files.json"  # what the last build has written
_FOLDERS = ("boards", "cells", "curves", "detectors", "parts", "pictures", "records", "static", "static/vendor")
_OURS = re.compile(rf"(?:(?:{'|'.join(_FOLDERS)})/)?[A-Za-z0-9._-]+")
PICTURE_BYTES = 16 << 20


def build(folders: Sequence[Path], site: Path, revisions: Revisions, *, anew: bool = True) -> tuple[Path, list[str]]:
    """Make the pages of one folder of results, or of several together.

    Args:
        folders: as `run --out` leaves them.
        site: where the pages go; a folder of their own.
        revisions: of the code at hand.
        anew: also where the last ones were made from the very same records.

    Returns:
        The first page, and a sentence about whatever could not be used.

    Raises:
        BenchError: there is no record that counts; the site's folder holds results.
        DiskError: it cannot be written to.
    """
    found, problems = read(folders, revisions)
    if not (found.records or found.certificates or found.matrices):
        told = "".join(f" {problem}" for problem in problems[:3])
        listed = ", ".join(files.shortened(folder) for folder in folders[:3])
        raise BenchError(f"No record in {listed} counts, so there is nothing to make pages of.{told}")
    if not anew and _made_from(site) == _state(found) and (site / names.INDEX).is_file():
        return site / names.INDEX, problems
    try:
        return write(found, site), problems
    except DiskError:
        raise
    except Exception as error:
        log.debug("While making pages:", exc_info=error)
    kept, odd = _without_odd(found)
    return write(kept, site), problems + odd


def _without_odd(found: Found) -> tuple[Found, list[str]]:
    """Less the records of which no page can be made, each with a sentence: whatever a stranger's record holds that no
    check has thought of, it costs no other one's page."""
    kept, problems = [], []
    for record in found.records:
        try:
            deque(pages.render(of([record], found.revisions)), maxlen=0)
            kept.append(record)
        except Exception as error:
            problems.append(
                f"The record {record.path} is left out, for no page can be made of it ({type(error).__name__}: "
                f"{one_line(error, 200)}); report it, or delete the file and run the cell again."
            )
    if not problems:  # it is no record's fault
        return of(found.records, found.revisions, plots=found.plots), [
            "Certificates and transfer matrices are left out, for pages could not be made of one of them; report it."
        ]
    return of(kept, found.revisions, found.certificates, found.matrices, found.plots), problems


def write(found: Found, site: Path) -> Path:
    """The pages of what was found; returns the first one's path. Raises BenchError and DiskError, as `build`."""
    forget()
    before = _listed(site)
    written: list[str] = []

    def put(path: str, data: bytes) -> None:
        target = site / path
        if not (target.is_file() and not target.is_symlink() and target.read_bytes() == data):
            _replace(target, data)
        written.append(path)

    with files.writing(site):
        _refuse(site)
        for path, data in static():
            put(f"static/{path}", data)
        for path, data in _copies(found):
            put(path, data)
        for page in pages.render(found, copied=frozenset(written)):
            put(page.path, page.text.encode(errors="replace"))
        # First the list of both, so that who is killed while taking away leaves nothing behind that no list knows.
        write_atomically(site / LISTED, _list({*before, *written}, ""))
        for path in before - {*written}:
            (site / path).unlink(missing_ok=True)
        write_atomically(site / LISTED, _list(set(written), _state(found)))
    return site / names.INDEX


def _replace(path: Path, data: bytes) -> None:
    """The old content or the new one, never a part, for whoever looks. Unlike a record's, a page is not waited for
    until it is on the disk, which takes longer than to make it: what a power cut spoils, the next build mends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def static() -> Iterator[tuple[str, bytes]]:
    """Style, scripts and the vendored library with its licence."""
    return _parts("static")


def _parts(folder: str = "") -> Iterator[tuple[str, bytes]]:
    """The files of this package, or of a folder of it, code included."""

    def walk(folder: Traversable, within: str) -> Iterator[tuple[str, bytes]]:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.name == "__pycache__":
                continue
            if entry.is_dir():
                yield from walk(entry, f"{within}{entry.name}/")
            else:
                yield f"{within}{entry.name}", entry.read_bytes()

    home = resources.files("bench.report.site")
    yield from walk(home / folder if folder else home, "")


def _copies(found: Found) -> Iterator[tuple[str, bytes]]:
    """Records, scores and pictures that pages link: a site is whole without the folder that it was made from."""
    notices = []
    for record in found.records:
        if record.path is None:
            continue
        sources = [(names.document(record), record.path, limits.RECORD_BYTES)]
        if record.ok:
            sources.append((names.scores(record), companion(record.path, SCORES_SUFFIX), limits.SCORES_BYTES))
        picture = _picture(found, record)
        if picture is not None:
            sources.append((names.picture(record), picture, PICTURE_BYTES))
        for path, source, most in sources:
            try:
                data = read_ordinary(source, most)
            except OSError:  # it has gone since it was read; its page has no link then
                continue
            if path.startswith("pictures/"):
                notices.append(f"{Path(path).name}: {one_line(record.licence, 2000)}")
            if path == names.scores(record) and _would_run(data):
                path = names.scores_as_text(record)
            yield path, data
    if notices:
        head = "The pictures in this folder are made from dataset images and carry their licence, not that of the code:"
        yield "pictures/NOTICE.txt", "\n".join([head, *sorted(notices), ""]).encode(errors="replace")


def _would_run(scores: bytes) -> bool:
    """Whether a table of scores names an image or a kind of defect as a formula. It is not to be changed, for its
    record's hash is of its bytes."""
    rows = csv.reader(io.StringIO(scores.decode(errors="replace"), newline=""))
    try:
        return any(escape_csv(name) != one_line(name, 2000) for row in rows for name in (row[:1] + row[2:3]))
    except csv.Error:
        return True


def _picture(found: Found, record: Record) -> Path | None:
    """A panel that was drawn from this very record, and whose licence is known."""
    folder = found.plots.get(record.key)
    if folder is None or record.path is None or not record.licence:
        return None
    stem = record.path.name.removesuffix(".json")
    picture = folder / f"panel--{safe_name(record.dataset)}--{safe_name(record.category)}--{stem}.png"
    return picture if is_drawn(picture, record.stamp) else None


def _listed(site: Path) -> set[str]:
    """What the last build has written. Names that none of ours could have are left out, whoever wrote the list."""
    known = _last(site).get("files")
    return {name for name in known if _is_ours(name)} if isinstance(known, list) else set()


def _made_from(site: Path) -> object:
    """What the last build was made from (`_state`)."""
    return _last(site).get("state")


def _last(site: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_ordinary(site / LISTED, limits.SCORES_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(found: Found) -> str:
    """A hash of which records and certificates there are, each as it was last written, of the matrices, the revisions
    that say what is out of date, and of the pages' own parts."""
    parts = [
        *sorted(record.stamp for record in found.records),
        *sorted(f"{c.key} {c.written}" for c in found.certificates),
    ]
    parts += [repr(found.matrices), repr(found.revisions)]
    parts += [f"{record.key} {_picture(found, record) is not None}" for record in found.records]
    parts += [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in _parts()]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and _OURS.fullmatch(name) is not None and ".." not in name


def _list(names_of: set[str], state: str) -> bytes:
    return (json.dumps({"state": state, "files": sorted(names_of)}, indent=0) + "\n").encode()


def _refuse(site: Path) -> None:
    """A folder of the site that leads elsewhere would have files written there, and taken away; and among a run's
    records copies of them would be records once more."""
    for path in (site, *(site / name for name in _FOLDERS)):
        if path.is_symlink():
            raise DiskError(f"{files.shortened(path)} is a link; remove it, or choose another folder for the site.")
    if (site / "records").is_dir() and any(path.is_dir() for path in (site / "records").iterdir()):
        raise BenchError(f"{files.shortened(site)} holds results; choose a folder of its own for the site (--site).")
