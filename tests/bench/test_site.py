"""The pages of a site: what they say is what records say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import site_reading
import site_texts
from fake_certificates import make_certificate, make_table, write_certificate
from fake_records import make_failed, make_record, make_scores, with_auc, write_record
from site_reading import site_of, some

from bench.records.record import Revisions
from bench.report import leaderboard
from bench.report.site import build, found, index, names, pages, sources
from bench.report.site.texts import texts
from detectors import registry

VENDORED = Path(build.__file__).parent / "static" / "vendor"


# -- what pages say ---------------------------------------------------------------------------------------------------


def test_the_first_page_ranks_as_the_leaderboard_does(tmp_path: Path) -> None:
    records = some(tmp_path)
    all_rows = index.rows(found.of(records))
    for number, board in enumerate(leaderboard.build(records)):
        rows = [row for row in all_rows if row.board == number and row.place == "average"]
        assert [row.label for row in rows] == [row.label for row in board.rows if row.robust is not None]
        assert [row.robust for row in rows] == [row.robust for row in board.rows if row.robust is not None]
        assert [row.rank for row in rows] == list(range(1, 1 + len(rows)))


def test_the_first_page_holds_the_figures_in_tenths(tmp_path: Path) -> None:
    record = with_auc(make_record(), clean=87.65, robust=12.34)
    everything = found.of([record])
    (row,) = index.payload(everything, index.rows(everything))["rows"]
    assert row[6][0] == 876 and row[7][0] == 123


def test_the_first_page_begins_with_the_widest_board_of_a_published_set_by_the_strongest_protocol() -> None:
    """One category has strict-lite, too; that ranks nothing yet, and counts nevertheless."""
    boards = [{"dataset": "folder"}, {"dataset": "btad", "category": "01"}, {"dataset": "elpv"}]
    records = [make_record(detector=d, **fields) for d in ("ae", "cfa") for fields in boards]
    records += [make_record(detector=d, category="poly") for d in ("ae", "cfa", "spade")]
    records += [make_record(detector="ae", protocol="strict-lite", attack="autoattack-linf", steps=100)]
    everything = found.of(records)
    first = everything.boards[index.payload(everything, index.rows(everything))["start"]]
    assert (first.dataset, first.ranking, len(first.columns)) == ("elpv", "quick", 2)
    alone = found.of([make_record(dataset="folder"), make_record(dataset="zzz")])
    assert alone.boards[index.payload(alone, index.rows(alone))["start"]].dataset == "zzz"


def test_an_average_is_certified_where_every_category_is_by_the_same_kind() -> None:
    table = make_table()
    claim = make_certificate(table).claim
    shared = {"detector": "spade", "norm": "l2", "attack": "pgd-l2", "epsilon": 0.1, "image_size": claim.image_size}
    shared |= {"fingerprint": claim.fingerprint, "checkpoint": claim.detector.checkpoint_sha256}
    records = []
    for category in ("mono", "poly"):
        record = make_record(category=category, **shared)
        subset = dataclasses.replace(record.subset, sha256=claim.subset.sha256)
        records.append(dataclasses.replace(record, cell=dataclasses.replace(record.cell, subset=subset)))
    certificates = [make_certificate(table, category=category) for category in ("mono", "poly")]
    rows = {row.place: row for row in index.rows(found.of(records, certificates=certificates))}
    average, mono = rows["average"].certified, rows["mono"].certified
    assert average is not None and mono is not None
    assert average[0].value == pytest.approx(mono[0].value) and average[1] == mono[1] == "sigma 0.1, p 0.5"
    assert mono[0].low < average[0].low  # of two categories one knows more
    rows = {row.place: row for row in index.rows(found.of(records, certificates=certificates[:1]))}
    assert rows["average"].certified is None and rows["mono"].certified is not None
    other = [certificates[0], make_certificate(table, category="poly", sigma=0.5)]
    rows = {row.place: row for row in index.rows(found.of(records, certificates=other))}
    assert rows["average"].certified is None and rows["poly"].certified is not None


def test_rows_say_how_far_fits_spread_and_what_their_class_says_of_the_fit() -> None:
    aucs = {0: 50.0, 1: 60.0, 2: 70.0}
    records = [
        with_auc(make_record(detector="pls", fit_seed=seed, checkpoint=str(seed) * 64), clean=90.0, robust=auc)
        for seed, auc in aucs.items()
    ]
    rows = {row.detector: row for row in index.rows(found.of([*records, make_record(detector="a-strangers")]))}
    assert rows["pls"].is_adversarial and not rows["pls"].is_extra
    assert (rows["pls"].fits, rows["pls"].spread) == (3, 10.0)
    assert not rows["a-strangers"].is_adversarial and rows["a-strangers"].spread is None


def test_what_noise_is_worth_stands_beside_the_figure() -> None:
    record = make_record(detector="freerad", draws=10)
    record = dataclasses.replace(
        record, results=record.results | {"best_of": {"auc": 12.5, "low": 8.0, "high": 20.0, "draws": 10}}
    )
    everything = found.of([record, make_record()])
    rows = {row.detector: row for row in index.rows(everything)}
    (board,) = everything.boards
    (noisy,) = [row for row in board.rows if row.name == "freerad"]
    assert rows["freerad"].noise == (("best of 10", noisy.cells["mono"].best_of),) and not rows["ae"].noise
    payload = index.payload(everything, list(rows.values()))
    coded = {payload["detectors"][row[2]][0]: row[18:] for row in payload["rows"]}
    assert payload["texts"][coded["freerad"][0][0]] == "best of 10" and coded["ae"] == []
    page = next(page.text for page in pages.render(everything) if page.path == names.detector("freerad"))
    assert "best of 10: " in page


def test_a_detectors_page_says_what_it_is_and_leads_to_its_cells(tmp_path: Path) -> None:
    record = write_record(tmp_path / "records", detector="pls", category="mono")
    write_record(tmp_path / "records", detector="spade", frozen={"tf_efficientnet_lite0": "a" * 64, "<b>": "b" * 64})
    for category in ("mono", "poly"):
        write_record(tmp_path / "records", detector="a-strangers", category=category)
    site = site_of(tmp_path)
    page = site_reading.Parsed((site / names.detector("pls")).read_text())
    assert "an autoencoder whose latent space keeps a few principal components" in page.text
    assert "attacks its training images, no extra data" in page.text
    addresses = [address for _, _, address in site_reading.links(page)]
    assert "https://arxiv.org/abs/2108.11168" in addresses
    assert addresses.count(f"../{names.cell(record)}") == 2  # of its figure, and in the history
    page = site_reading.Parsed((site / names.detector("spade")).read_text())
    assert "tf_efficientnet_lite0 (ImageNet weights by way of timm, apache-2.0)" in page.text and "<b>," in page.text
    page = site_reading.Parsed((site / names.detector("a-strangers")).read_text())
    assert "whether it takes attacked or other pictures is not known" in page.text


def test_papers_are_linked_by_arxiv_and_doi() -> None:
    assert sources.paper_link("spade") == "https://arxiv.org/abs/2005.02357"
    assert sources.paper_link("rae") == "https://doi.org/10.1145/3097983.3098052"
    assert sources.paper_link("brightness") == sources.paper_link("a-strangers") == ""


def test_a_detector_that_is_registered_after_pages_were_made_is_known_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = found.of([make_record(detector="late")])
    build.write(everything, tmp_path / "site")
    assert sources.installed("late") is None
    monkeypatch.setitem(registry._REGISTRY, "late", registry.get("spade"))
    build.write(everything, tmp_path / "site")
    assert sources.installed("late") is registry.get("spade")


def test_pages_of_one_detectors_cells_can_be_told_apart(tmp_path: Path) -> None:
    members = [{"attack": {"name": "pgd-linf", "differentiate": "score"}, "won_share": 0.5, "robust_auc": 31.25}]
    members += [{"attack": {"name": "apgd-linf"}, "won_share": 0.25}]
    write_record(tmp_path / "records", indicators={"members": members})
    write_record(tmp_path / "records", epsilon=4 / 255)
    texts = [path.read_text() for path in (site_of(tmp_path) / "cells").glob("*.html")]
    titles = {re.findall("<title>(.*?)</title>", text)[0].partition(": robust")[0] for text in texts}
    assert titles == {f"AE, elpv, mono; quick, pgd-linf, l-inf epsilon {n}/255, fit 0" for n in (2, 4)}
    (listed,) = [text for text in texts if "in turn" in text]
    assert "<li>pgd along the score: 31.2 (50 %)</li>" in listed and "<li>apgd (25 %)</li>" in listed


def test_a_cells_page_says_what_its_record_holds(tmp_path: Path) -> None:
    write_record(tmp_path / "records", indicators={"zero_gradient_share": 0.4, "nonfinite_gradient_share": 0.0})
    site = site_of(tmp_path)
    (cell,) = (site / "cells").glob("*.html")
    page = site_reading.Parsed(cell.read_text())
    for told in (
        "python -m bench run",
        "abc1234",
        "f" * 64,
        "the gradient was zero in 40 % of the steps",
        "pgd-linf",
        "20 normal and 30 anomalous",
        "CC BY-NC-SA 4.0",
    ):
        assert told in page.text
    assert "../meaning.html#flag-1" in [address for *_, address in site_reading.links(page)]


def test_a_cells_page_says_which_kind_of_defect_the_attack_hides_first(tmp_path: Path) -> None:
    plain = make_scores()
    kinds = [("<b>scratch</b>", "dent")[n % 2] if label == -1 else "good" for n, label in enumerate(plain.labels)]
    hidden = np.array([kind == "dent" for kind in kinds])
    scores = dataclasses.replace(plain, robust=plain.robust - 9.0 * hidden, defects=tuple(kinds))
    record = write_record(tmp_path / "records", scores)
    text = (site_of(tmp_path) / names.cell(record)).read_text()
    table = text.partition("<h2>Kinds of defect</h2>")[2].partition("</table>")[0]
    rows = re.findall('<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', table)
    assert [(kind, images) for kind, images, *_ in rows] == [("dent", "15"), ("&lt;b&gt;scratch&lt;/b&gt;", "15")]
    assert rows[0][3].startswith("0.0 [")
    one = write_record(tmp_path / "one" / "records")
    assert "Kinds of defect" not in (site_of(tmp_path / "one") / names.cell(one)).read_text()


def test_a_failed_cell_has_a_page_with_its_reason() -> None:
    everything = found.of([make_failed("30 of 50 scores are NaN.")])
    text = {page.path: page.text for page in pages.render(everything)}
    (cell,) = [body for path, body in text.items() if path.startswith("cells/")]
    assert "30 of 50 scores are NaN." in cell


def test_the_images_that_are_listed_as_worst_are_those_that_lost_most_pairs(tmp_path: Path) -> None:
    scores = make_scores(normals=3, anomalies=3, clean_shift=9.0, robust_shift=9.0)
    robust = scores.robust.copy()
    robust[0, 4] = -50.0  # one anomaly falls below all normals: it loses 3 of 3 pairs, each normal 1 of 3
    write_record(tmp_path / "records", dataclasses.replace(scores, robust=robust))
    (cell,) = (site_of(tmp_path) / "cells").glob("*.html")
    text = site_reading.Parsed(cell.read_text()).text
    worst = text[text.index("pairs lost, attacked") :]
    assert re.search(r"test/bad/004\.png anomalous \S+ -50 0 % 100 %", worst)
    assert worst.count("0 % 33 %") == 3


def test_charts_have_every_point_with_its_numbers(tmp_path: Path) -> None:
    site = site_of(tmp_path, revisions=Revisions()) if some(tmp_path) else tmp_path
    (curves,) = [p for p in (site / "curves").glob("*.html") if "AE at 4/255" in p.read_text()]
    text = curves.read_text()
    assert text.count("<title>AE at 2/255") == text.count("<title>AE at 0:") == 2  # one for each category
    board = next(p for p in (site / "boards").glob("*.html") if "Clean against robust" in p.read_text())
    assert "<title>FreeRAD: clean" in board.read_text()


def test_certificates_have_a_page(tmp_path: Path) -> None:
    write_record(tmp_path / "records", detector="spade", norm="l2", attack="pgd-l2", epsilon=0.1)
    write_certificate(tmp_path / "certificates")
    page = site_reading.Parsed((site_of(tmp_path) / names.CERTIFICATES).read_text())
    assert "SPADE, sigma 0.1, p 0.5" in page.text and "radius 0.25" in page.text
    assert make_certificate().claim.radii


def test_a_transfer_matrix_has_a_page_and_a_damaged_one_costs_nothing(tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    entry = {"auc": 40.2, "low": 30.0, "high": 50.0, "sd": 0.0, "strict_auc": 40.2}
    content = {
        "kind": "transfer",
        "attack": "pgd-linf",
        "epsilon": 2 / 255,
        "dataset": "elpv",
        "category": "mono",
        "sources": ["ae"],
        "targets": ["ae", "spade"],
        "clean": {"ae": entry | {"auc": 60.0}},
        "made_on": {"ae": {"ae": entry, "spade": entry | {"auc": 71.5}}},
    }
    (tmp_path / "transfer").mkdir()
    (tmp_path / "transfer" / "one.json").write_text(json.dumps(content))
    (tmp_path / "transfer" / "two.json").write_text('{"kind": "transfer", "attack": "pgd", "sources": 3}')
    page, problems = build.build([tmp_path], tmp_path / "site", Revisions())
    assert len(problems) == 1 and "two.json cannot be read" in problems[0]
    assert "71.5" in (page.parent / names.TRANSFER).read_text()


def test_parts_of_ones_own_have_a_page_that_says_whom_to_trust(tmp_path: Path) -> None:
    for detector, robust, clean in (("cfa", 3.0, 3.0), ("spade", 0.0, 4.0), ("brightness", 0.3, 0.3)):
        scores = make_scores(robust_shift=robust, clean_shift=clean, normals=40, anomalies=40)
        write_record(tmp_path / "records", scores, dataset="folder", category="bolt", detector=detector)
    (page,) = (site_of(tmp_path) / "parts").glob("*.html")
    text = site_reading.Parsed(page.read_text()).text
    assert "Trust CFA on bolt: changes of at most 2 of 255 grey levels in each pixel leave it an AUC of" in text
    assert "Where nobody tampers with pictures, SPADE sees most" in text
    assert text.index("1. CFA") < text.index("2. SPADE")


def test_a_detector_that_a_baseline_beats_is_not_recommended(tmp_path: Path) -> None:
    for detector, robust in (("cfa", 0.0), ("brightness", 1.5)):
        scores = make_scores(robust_shift=robust, normals=40, anomalies=40)
        write_record(tmp_path / "records", scores, dataset="folder", category="bolt", detector=detector)
    (page,) = (site_of(tmp_path) / "parts").glob("*.html")
    text = site_reading.Parsed(page.read_text()).text
    assert "trust none on bolt: no detector keeps surely more than the baseline Brightness does" in text


def test_of_several_folders_there_is_one_site(tmp_path: Path) -> None:
    write_record(tmp_path / "a" / "records", category="mono")
    write_record(tmp_path / "b" / "records", category="poly")
    page, _ = build.build([tmp_path / "a", tmp_path / "b"], tmp_path / "site", Revisions())
    assert len(list((page.parent / "cells").glob("*.html"))) == 2


# -- texts and what is vendored ---------------------------------------------------------------------------------------


def test_texts_are_those_of_the_documents() -> None:
    written = site_texts.FILE.read_text(encoding="utf-8")
    assert written == site_texts.text(), "run python -m tests.site_texts"


def test_flags_are_linked_to_what_explains_them() -> None:
    for sentence, number in {
        "the gradient was zero in 40 % of the steps": "1",
        "not converged: 12 to 30 % of the attack's gain came in the last fifth of its steps (2 of 3 fits)": "4",
        "along the score's own gradient the attack gained 7 % more on 6 images": "13",
        "not attacked, or not looked at by the gate: it sees no pixels": "12",
    }.items():
        assert texts().link(sentence) == f"meaning.html#flag-{number}"
    assert texts().link("something of its own") == "meaning.html"


def test_the_vendored_library_is_the_published_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "site.md").read_text(encoding="utf-8")
    for path in sorted(VENDORED.glob("*.js")):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in page, "docs/site.md names its version and hash"
        assert (VENDORED / f"{path.name.partition('.')[0]}.LICENSE.txt").is_file()
