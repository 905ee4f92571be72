"""The folder of a site: nothing that a stranger named gets into it as anything but text, and it is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
import site_reading
from fake_certificates import write_certificate
from fake_records import make_record, make_scores, write_record
from site_reading import site_of, some

from bench.errors import BenchError, DiskError
from bench.records.record import Record, Revisions
from bench.report.site import build, found, index, names, pages

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7 * 7 }} {% raw %} javascript:alert(3)"


# -- strangers --------------------------------------------------------------------------------------------------------


def hostile(folder: Path) -> None:
    """Records whose names, reasons and images are a stranger's."""
    for number, detector in enumerate((HOSTILE, "ae", f"../../{HOSTILE}")):
        scores = make_scores(seed=number)
        scores = dataclasses.replace(scores, images=tuple(f"{HOSTILE}/{n}" for n in range(len(scores.images))))
        record = write_record(
            folder / "records",
            scores,
            detector=detector,
            dataset=HOSTILE,
            category=HOSTILE,
            settings={HOSTILE: {HOSTILE: HOSTILE}},
            indicators={"flags": [HOSTILE], "members": [{"attack": {"name": HOSTILE}, "won_share": 0.5}]},
        )
        assert record.ok
    write_certificate(folder / "certificates", detector=HOSTILE, category=HOSTILE, preset=HOSTILE)
    write_certificate(folder / "certificates", detector="javascript:alert(1)")
    entry = {"auc": 40.0, "low": 30.0, "high": 50.0, "sd": 0.0, "strict_auc": 40.0}
    matrix = {"kind": "transfer", "attack": HOSTILE, "epsilon": 0.1, "dataset": HOSTILE, "category": HOSTILE}
    matrix |= {"sources": [HOSTILE], "targets": [HOSTILE], "clean": {HOSTILE: entry}, "flags": [HOSTILE]}
    matrix |= {"made_on": {HOSTILE: {HOSTILE: entry}}}
    (folder / "transfer").mkdir()
    (folder / "transfer" / "one.json").write_text(json.dumps(matrix))


def test_what_strangers_named_stays_text(tmp_path: Path) -> None:
    hostile(tmp_path)
    site = site_of(tmp_path)
    for path, page in site_reading.pages(site).items():
        schemes = {address.lower().partition(":")[0] for *_, address in site_reading.links(page) if ":" in address}
        assert schemes <= {"https"}, path
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, tag)
            assert tag not in ("style", "iframe", "object", "embed", "base", "template"), (path, tag)
            if tag == "script":
                is_data = attributes.get("type") == "application/json"
                assert is_data or attributes["src"].startswith(("static/", "../static/"))
            if tag == "img":
                assert attributes["src"].startswith("../pictures/")
    first = site_reading.Parsed((site / names.INDEX).read_text())
    assert any(HOSTILE[:40] in label for label in first.payload["labels"])
    assert "<script>alert" not in (site / names.INDEX).read_text()
    cell = next((site / "cells").glob("*.html"))
    assert "{{ 7 * 7 }}" in site_reading.Parsed(cell.read_text()).text  # a template that names would be run in says 49


def test_every_file_of_a_site_has_a_harmless_name(tmp_path: Path) -> None:
    hostile(tmp_path)
    site = site_of(tmp_path)
    for path in site.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", path.name), path.name
    assert {path.name for path in tmp_path.iterdir()} == {"records", "certificates", "transfer", "site"}


@pytest.mark.parametrize("of", [some, hostile])
def test_links_lead_within_the_folder_and_nothing_is_loaded_from_elsewhere(of: object, tmp_path: Path) -> None:
    of(tmp_path)  # type: ignore[operator]
    write_certificate(tmp_path / "certificates")
    site = site_of(tmp_path)
    everything = site_reading.pages(site)
    for path, page in everything.items():
        for tag, name, address in site_reading.links(page):
            if tag == "a" and address.startswith("https://"):
                continue
            to, anchor = site_reading.target(path, address)
            assert to.is_file() and to.is_relative_to(site.resolve()), f"{path.name}: {tag} {name} {address}"
            if anchor and to in everything:
                assert anchor in everything[to].ids | {"content"}, f"{path.name}: {address}"


def test_addresses_that_the_first_page_makes_are_there(tmp_path: Path) -> None:
    some(tmp_path)
    site = site_of(tmp_path)
    data = site_reading.Parsed((site / names.INDEX).read_text()).payload
    for row in data["rows"]:
        if row[17]:
            assert (site / f"{data['detectors'][row[2]][2]}{row[17]}.html").is_file()
    for _, page, *_ in data["detectors"]:
        assert (site / page).is_file()
    for board in data["boards"]:
        assert (site / board["page"]).is_file()
    ids = site_reading.Parsed((site / names.MEANING).read_text()).ids
    assert all(anchor.removeprefix("#") in ids for anchor in data["flags"].values() if anchor)


@pytest.mark.parametrize("name", ["=1+1", "\t@SUM(1)", "a;-1+1", "\uff0b1", "@\u202ex"])
def test_scores_that_a_spreadsheet_would_run_are_text(name: str, tmp_path: Path) -> None:
    scores = make_scores()
    odd = dataclasses.replace(scores, images=(name, *scores.images[1:]))
    one, two = write_record(tmp_path / "records", odd), write_record(tmp_path / "records", scores, category="poly")
    site = site_of(tmp_path)
    assert one.path is not None
    as_text = site / names.scores_as_text(one)
    assert as_text.read_bytes() == one.path.with_name(f"{one.path.stem}.scores.csv").read_bytes()
    assert not (site / names.scores(one)).exists() and (site / names.scores(two)).is_file()
    page = (site / names.cell(one)).read_text()
    assert f"../{names.scores_as_text(one)}" in page and f"../{names.scores(one)}" not in page


def test_a_licence_of_several_lines_is_one_line_of_the_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = dataclasses.replace(make_record(), licence="mine\nother.png: public domain", path=tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(b"png")
    monkeypatch.setattr(build, "_picture", lambda found, record: tmp_path / "a.png")
    files = dict(build._copies(dataclasses.replace(found.of([make_record()]), records=(record,))))
    assert files["pictures/NOTICE.txt"].decode().splitlines()[1:] == [
        f"{Path(names.picture(record)).name}: mine other.png: public domain"
    ]


def test_the_policy_allows_no_inline_script_or_style(tmp_path: Path) -> None:
    some(tmp_path)
    for page in site_reading.pages(site_of(tmp_path)).values():
        (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'" and rules["script-src"] == rules["style-src"] == "'self'"


# -- the folder -------------------------------------------------------------------------------------------------------


def contents(site: Path) -> dict[str, bytes]:
    return {str(p.relative_to(site)): p.read_bytes() for p in sorted(site.rglob("*")) if p.is_file()}


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    some(tmp_path)
    first = contents(site_of(tmp_path))
    assert contents(site_of(tmp_path)) == first
    (page, _) = build.build([tmp_path], tmp_path / "elsewhere", Revisions())
    assert contents(page.parent) == first


def test_pages_go_with_their_records_and_nothing_else_does(tmp_path: Path) -> None:
    kept = write_record(tmp_path / "records", detector="ae")
    gone = write_record(tmp_path / "records", detector="spade")
    site = site_of(tmp_path)
    mine = [site / "notes.html", site / "cells" / "mine.html"]
    for path in mine:
        path.write_text("mine")
    assert gone.path is not None
    gone.path.unlink()
    build.build([tmp_path], site, Revisions())
    assert (site / names.cell(kept)).is_file()
    assert not (site / names.cell(gone)).exists() and not (site / names.document(gone)).exists()
    assert not (site / names.detector("spade")).exists()
    assert all(path.read_text() == "mine" for path in mine)


def test_a_list_that_names_files_elsewhere_takes_none_of_them_away(tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    site = site_of(tmp_path)
    others = [tmp_path / "precious.txt", site / "cells" / "deep" / "precious.txt"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("precious")
    named = ["../precious.txt", str(others[0]), "cells/deep/precious.txt", "cells/../../precious.txt", 7, None]
    (site / build.LISTED).write_text(json.dumps({"files": named}))
    build.build([tmp_path], site, Revisions())
    assert all(other.read_text() == "precious" for other in others)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cells").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskError, match="is a link"):
        build.build([tmp_path], tmp_path / "site", Revisions())
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_unchanged_is_made_anew_only_where_somebody_asks(tmp_path: Path) -> None:
    write_record(tmp_path / "records", detector="ae")
    page = site_of(tmp_path) / names.INDEX
    page.write_text("old")
    build.build([tmp_path], page.parent, Revisions(), anew=False)
    assert page.read_text() == "old"
    build.build([tmp_path], page.parent, Revisions())
    assert page.read_text() != "old"


@pytest.mark.parametrize("change", ["record", "certificate", "revision", "page"])
def test_what_has_changed_is_made_anew(change: str, tmp_path: Path) -> None:
    write_record(tmp_path / "records", detector="ae")
    page = site_of(tmp_path) / names.INDEX
    page.write_text("old")
    if change == "record":
        write_record(tmp_path / "records", detector="spade")
    elif change == "certificate":
        write_certificate(tmp_path / "certificates")
    elif change == "page":
        page.unlink()
    build.build([tmp_path], page.parent, Revisions({"ae": 2} if change == "revision" else {}), anew=False)
    assert page.read_text() != "old"


def test_pages_do_not_go_among_results(tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    before = contents(tmp_path)
    with pytest.raises(BenchError, match="holds results"):
        build.build([tmp_path], tmp_path, Revisions())
    assert contents(tmp_path) == before


def test_a_record_of_which_no_page_can_be_made_costs_no_other_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "records", detector="ae")
    write_record(tmp_path / "records", detector="spade")

    def breaks(record: Record) -> float:
        if record.detector_name == "spade":
            raise ValueError("odd")
        return 1.0

    monkeypatch.setattr(index, "seconds_per_image", breaks)
    page, problems = build.build([tmp_path], tmp_path / "site", Revisions())
    assert len(problems) == 1 and "no page can be made of it (ValueError: odd)" in problems[0]
    assert [p.name[:4] for p in (page.parent / "cells").glob("*.html")] == ["ae--"]


def test_five_thousand_cells_have_a_first_page_below_a_megabyte() -> None:
    base = make_record()
    records = []
    for n in range(5000):
        detector, category, radius = n % 50, n // 50 % 10, n // 500
        cell = dataclasses.replace(
            base.cell,
            category=f"category-{category}",
            detector=dataclasses.replace(base.cell.detector, name=f"detector-{detector}", title=""),
            attack=dataclasses.replace(base.cell.attack, epsilon=(1 + radius) / 255),
        )
        records.append(dataclasses.replace(base, cell=cell, key=hashlib.sha256(str(n).encode()).hexdigest()))
    everything = found.of(records)
    rows = index.rows(everything)
    assert len(rows) == 5000 + 10 * 50  # and an average for each detector at each radius
    assert len(pages.first_page(everything, rows, [], []).text.encode()) < 1_000_000
