"""What the base class promises for any dataset that lists its samples, in whatever order it lists them."""

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.data.base import Dataset, Sample, Split
from bench.errors import DataError


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    return file.getvalue()


def sample(name: str, defect: str, shade: int) -> Sample:
    return Sample(id=name, defect=defect, where=name, content=partial(picture, shade))


class Toy(Dataset):
    name = "toy"
    needs_root = False
    train_samples = tuple(sample(f"train/{number}", "good", number) for number in range(9))
    test_samples = tuple(sample(f"test/{number}", "good" if number % 2 else "dent", number) for number in range(9))

    def categories(self) -> tuple[str, ...]:
        return ("all",)

    def _list(self, category: str) -> Split:
        return Split(self.train_samples, self.test_samples)


class Backwards(Toy):
    train_samples = Toy.train_samples[::-1]
    test_samples = Toy.test_samples[::-1]


class Swapped(Toy):
    train_samples = (*Toy.train_samples[1:], Toy.test_samples[1])
    test_samples = (*Toy.test_samples[:1], Toy.train_samples[0], *Toy.test_samples[2:])


class Twice(Toy):
    test_samples = (*Toy.test_samples, Toy.train_samples[0])


def test_the_order_of_the_listing_changes_nothing() -> None:
    toy, backwards = Toy(), Backwards()
    assert toy.fingerprint("all") == backwards.fingerprint("all")
    for one, two in (
        (toy.train("all", 4, limit=4), backwards.train("all", 4, limit=4)),
        (toy.test("all", 4, per_class=2), backwards.test("all", 4, per_class=2)),
    ):
        assert one.ids == two.ids == tuple(sorted(one.ids))
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


def test_the_fingerprint_knows_training_from_test() -> None:
    assert Toy().fingerprint("all") != Swapped().fingerprint("all")


def test_an_image_in_both_training_and_test_is_refused() -> None:
    with pytest.raises(DataError, match="2 images named train/0"):
        Twice().validate("all")


def test_a_root_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Toy("~/data").root == tmp_path / "data"
