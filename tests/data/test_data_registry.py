"""Every dataset registers itself, says what it is, and an unknown name is met with the nearest."""

from pathlib import Path

import pytest
from published_trees import TREES

import bench.data
from bench.data.registry import find, register
from bench.errors import DataError, UnknownNameError
from bench.names import nearest, unknown


def test_every_module_registers_its_dataset() -> None:
    assert {"cifar10", "elpv", "fashion-mnist", "folder", "mvtec"} <= set(bench.data.names())
    assert TREES.keys() <= set(bench.data.names())


@pytest.mark.parametrize("name", bench.data.names())
def test_each_dataset_introduces_itself_in_one_line(name: str) -> None:
    dataset = find(name)
    for line in (dataset.summary, dataset.licence):
        assert line
        assert "\n" not in line


@pytest.mark.parametrize("name", ["elpv", "mvtec", "mvtec-loco", "mvtec-3d", "mvtec-ad-2", "kolektor-sdd", "btad"])
def test_share_alike_licences_travel(name: str) -> None:
    assert ("CC BY-SA 4.0" if name == "btad" else "CC BY-NC-SA 4.0") in find(name).licence


@pytest.mark.parametrize("name", sorted(set(bench.data.names()) - {"folder"}))
def test_a_published_one_says_where_it_is_had_and_how_its_pictures_may_be_shown(name: str) -> None:
    about = find(name).about
    assert about is not None
    assert find(name).licence == about.line
    assert about.home.startswith("https://") and about.home in about.line and about.size
    assert ("not commercially" in about.showing) == ("-NC-" in about.licence.replace(" ", "-"))


@pytest.mark.parametrize("name", bench.data.names())
def test_the_page_of_data_sets_has_each_with_its_licence(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page
    about = find(name).about
    if about is not None and about.licence.startswith("CC"):
        assert f"`{name}`, {about.licence}" in page


@pytest.mark.parametrize("name", bench.data.names())
def test_a_dataset_without_its_root_says_so(name: str) -> None:
    if find(name).needs_root:
        with pytest.raises(DataError, match="--data-root"):
            bench.data.load(name)
    else:
        assert bench.data.load(name).root is None


@pytest.mark.parametrize(("typed", "meant"), [("mvtek", "mvtec"), ("ELPV", "elpv"), ("fashionmnist", "fashion-mnist")])
def test_an_unknown_dataset_offers_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'"):
        bench.data.load(typed)


def test_nearest_is_the_same_whatever_the_order() -> None:
    assert nearest("x", ["b", "a"]) == nearest("x", ["a", "b"]) == "a"
    assert nearest("x", []) == ""
    assert "none is registered" in str(unknown("attack", "x", []))


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match="elpv"):
        register(find("elpv"))
