"""Purify-then-detect: nothing but FreeRAD's reconstruction and the detector behind it, and no gradient lost between."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from derivatives import check_derivative, gradient
from detector_pictures import anomalous_pictures, normal_pictures
from freerad_small import SIDE, SMALL, shake, small, source
from torch import Tensor, nn

from detectors import checkpoint, loading, registry
from detectors.base import Detector, Progress, Settings
from detectors.brightness import Brightness
from detectors.errors import CheckpointError, DetectorError, NoAnomalyMapError
from detectors.freerad import FreeRAD
from detectors.noise import Noise, NoiseSeed
from detectors.purify import PurifierSettings, Purify
from detectors.store import FolderStore

NORMALS = normal_pictures(6, SIDE, seed=1)
IMAGES = torch.cat([normal_pictures(2, SIDE, seed=2), anomalous_pictures(1, SIDE, seed=3)])
PARTS = {f.name for f in fields(PurifierSettings)}
PURIFIER = {f"purifier.{key}": value for key, value in SMALL.items() if key.partition(".")[0] in PARTS}
CHEAP = {**PURIFIER, "inner.epochs": 1, "inner.work_size": 8}


@dataclass(frozen=True)
class CoinSettings(Settings):
    faces: int | str = 2


class Coin(Detector):
    """A random detector that names its streams as FreeRAD does, with a bank, a map and another surrogate."""

    name, title, paper, revision = "coin", "Coin", "none", 4
    is_stochastic = True
    has_map = True
    min_normals = 5
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {"faces": (3, 4)}
    elastic_buffers: ClassVar[frozenset[str]] = frozenset({"bank"})

    def __init__(self, settings: CoinSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        self.register_buffer("bank", torch.zeros(0))
        self.thrown: list[Tensor] = []
        self.largest = 0.0

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CoinSettings:
        return CoinSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.bank = normals.mean(dim=(1, 2, 3))
        self._after_load()
        if workdir is not None:
            (workdir / "freerad-snapshot.safetensors").write_text("a name that FreeRAD uses, too")

    def _after_load(self) -> None:
        self.largest = float(self.bank.max())

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        self.thrown.append(noise.normal(x.shape[1:], stream="diffuse", like=x))
        return (x + 0.1 * self.thrown[-1]).square().mean(dim=(1, 2, 3)) - self.largest

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=1)


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.names()
    monkeypatch.setitem(registry._REGISTRY, "coin", Coin)


def purify(member: str, **overrides: Any) -> Purify:
    """Unfitted, with a purifier that is small enough for a test."""
    detector = registry.create(f"purify:{member}", image_size=SIDE, **{**PURIFIER, **overrides})
    assert isinstance(detector, Purify)
    return detector


def lively(member: str, **overrides: Any) -> Any:
    """Fitted, and then with random weights in the U-Net, which starts as a constant."""
    detector = purify(member, **overrides).fit(NORMALS, seed=0)
    shake(detector.purifier.unet, seed=5)
    return detector


@pytest.fixture(scope="module")
def ae() -> Any:
    return lively("ae", **CHEAP)


# -- two parts and nothing else ---------------------------------------------------------------------------------------


def test_the_score_is_the_inner_detectors_of_the_purified_image(ae: Any) -> None:
    noise = source(3)
    purified = ae.purifier.reconstruct(IMAGES, noise=noise.sub(0))
    assert float((purified - IMAGES).abs().amax(dim=(1, 2, 3)).min()) > 0.01, "nothing was purified"
    with ae.inner.trusting():  # what was rebuilt may leave [0, 1]
        score, anomaly_map = ae.inner.score(purified), ae.inner.anomaly_map(purified)
    assert torch.equal(ae.score(IMAGES, noise=noise), score)
    assert torch.equal(ae.anomaly_map(IMAGES, noise=noise), anomaly_map)
    assert torch.equal(ae.reconstruct(IMAGES, noise=noise), purified)


def test_the_surrogate_is_the_inner_detectors(coin: None) -> None:
    detector, noise = lively("coin"), source(3)
    expected = detector.purifier.reconstruct(IMAGES, noise=noise.sub(0)).mean(dim=(1, 2, 3))
    assert torch.equal(detector.surrogate_score(IMAGES, noise=noise), expected)


def test_purifier_and_detector_never_share_their_noise(coin: None) -> None:
    detector, noise = lively("coin"), source(1)
    detector.score(IMAGES[:1], noise=noise)
    used = [noise.normal((3, SIDE, SIDE), stream="diffuse", like=IMAGES[:1]), detector.inner.thrown[-1]]
    used.append(noise.sub(0).normal((3, SIDE, SIDE), stream="diffuse", like=IMAGES[:1]))  # the purifier's
    assert len({float(u.sum()) for u in used}) == 3


def test_a_map_is_there_where_the_inner_detector_has_one(ae: Any) -> None:
    assert ae.has_map and not purify("brightness").has_map
    with pytest.raises(NoAnomalyMapError, match="brightness scores whole images"):
        purify("brightness").fit(NORMALS, seed=0).anomaly_map(IMAGES)


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"purifier.k": 4, "purifier.denoising_steps": 0},
        {"purifier.k": 200, "purifier.denoising_steps": 3},
        {"purifier.work_size": 8, "purifier.unet.attention_sides": (4,)},
    ],
    ids=["one-shot", "full-shot", "arbitrary-shot", "half the size"],
)
def test_the_gradient_is_that_of_the_whole_path(overrides: dict[str, Any]) -> None:
    detector = lively("ae", **{**CHEAP, **overrides})
    check_derivative(detector, IMAGES[1:], directions=2)


def test_the_gradient_is_the_inner_ones_pulled_back_through_the_purifier(ae: Any) -> None:
    x, noise = IMAGES.double(), source(3)
    found = gradient(ae.score, x, noise)
    leaf = x.clone().requires_grad_()
    purified = ae.purifier.reconstruct(leaf, noise=noise.sub(0))
    seen = purified.detach().requires_grad_()
    with ae.inner.trusting():
        (inner,) = torch.autograd.grad(ae.inner.score(seen).sum(), seen)
    (expected,) = torch.autograd.grad(purified, leaf, grad_outputs=inner)
    torch.testing.assert_close(found, expected)
    assert float((found - inner).norm()) > 0.1 * float(inner.norm()), "the purifier might as well be the identity"


def test_nothing_is_clamped_on_the_way() -> None:
    """At a large k the purified image leaves [0, 1] by far; there a clamp would leave no gradient."""
    detector, noise = lively("brightness", **{"purifier.k": 600}), source(3)
    purified = detector.purifier.reconstruct(IMAGES, noise=noise.sub(0))
    outside = (purified < 0) | (purified > 1)
    assert float(outside.float().mean()) > 0.5
    mean = float(detector.inner.mean_brightness)
    torch.testing.assert_close(detector.score(IMAGES, noise=noise), (purified.mean(dim=(1, 2, 3)) - mean).abs())
    check_derivative(detector, IMAGES[1:], directions=2)


# -- fitting ----------------------------------------------------------------------------------------------------------


def _same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_the_detector_is_fitted_on_clean_normals_or_on_purified_ones() -> None:
    own = {"image_size": SIDE, "epochs": 1, "work_size": 8}
    alone = registry.create("ae", **own).fit(NORMALS, seed=0)
    clean = purify("ae", **CHEAP).fit(NORMALS, seed=0)
    assert _same(alone, clean.inner)
    purified = purify("ae", **CHEAP, fit_on="purified").fit(NORMALS, seed=0)
    noise = NoiseSeed(0).source("purified-normals", [str(i) for i in range(len(NORMALS))])
    seen = purified.purifier.reconstruct(NORMALS, noise=noise).clamp(0, 1)
    assert _same(registry.create("ae", **own).fit(seen, seed=0), purified.inner)
    assert not _same(clean.inner, purified.inner)


def test_the_purifier_is_freerads_network_to_the_bit() -> None:
    mine = purify("brightness").fit(NORMALS, seed=0).purifier
    assert _same(small().fit(NORMALS, seed=0).unet, mine.unet)


def test_weights_that_ship_with_freerad_are_taken_over_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(k="auto", filter_size=5).fit(NORMALS, seed=0).save(tmp_path / "shipped.safetensors")
    monkeypatch.setattr(FreeRAD, "shipped_checkpoints", classmethod(lambda cls: [path]))
    taken = purify("brightness").fit(NORMALS, seed=0)
    assert taken.fit_report["unet_from"] == "shipped" and taken.purifier.k == SMALL["k"]
    refitted = purify("brightness")
    refitted.may_take_shipped = False
    assert "unet_from" not in refitted.fit(NORMALS, seed=0).fit_report
    assert _same(taken, refitted)


def test_a_killed_fit_keeps_its_unet_and_the_parts_do_not_find_each_others_files(coin: None, tmp_path: Path) -> None:
    first = purify("coin").fit(NORMALS, seed=0, workdir=tmp_path)
    again = purify("coin").fit(NORMALS, seed=0, workdir=tmp_path)
    assert again.fit_report["unet_from"] == "this machine" and _same(first, again)
    assert (tmp_path / "inner" / "freerad-snapshot.safetensors").is_file()
    empty = tmp_path / "empty"
    purify("brightness").fit(NORMALS, seed=0, workdir=empty)
    assert not (empty / "inner").exists()


def test_the_unet_that_freerad_has_trained_is_found_in_the_store_and_the_other_way_round(tmp_path: Path) -> None:
    small(k=20).fit(NORMALS, seed=0, store=FolderStore(tmp_path))
    found = purify("brightness").fit(NORMALS, seed=0, store=FolderStore(tmp_path))
    assert found.fit_report["unet_from"] == "this machine"
    assert _same(found, purify("brightness").fit(NORMALS, seed=0))
    purify("brightness").fit(NORMALS, seed=1, store=FolderStore(tmp_path))
    assert small().fit(NORMALS, seed=1, store=FolderStore(tmp_path)).fit_report["unet_from"] == "this machine"


def test_progress_rises_to_its_end_through_both_parts() -> None:
    told: list[tuple[float, str]] = []

    def progress(done: int, total: int, note: str = "") -> None:
        told.append((done / total, note))

    purify("ae", **{**CHEAP, "inner.epochs": 3}).fit(NORMALS, seed=0, progress=progress)
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares[3] == 0.5
    assert told[0][1].startswith("purifier: ") and "held-out loss" in told[-1][1]


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_both_parts_and_what_they_keep_beside_their_tensors(coin: None, tmp_path: Path) -> None:
    detector, noise = lively("coin"), source(3)
    path = detector.save(tmp_path / "both.safetensors")
    loaded = loading.load(path)
    assert isinstance(loaded, Purify) and loaded.inner.largest == detector.inner.largest > 0
    assert torch.equal(loaded.score(IMAGES, noise=noise), detector.score(IMAGES, noise=noise))
    assert loaded.purifier.fit_report == detector.purifier.fit_report and loaded.inner.is_fitted
    assert {key.partition(".")[0] for key in checkpoint.read(path)[0]} == {"purifier", "inner"}


def test_half_precision_weights_stay_half_on_the_disk(tmp_path: Path) -> None:
    detector = purify("brightness", **{"purifier.storage": "float16"}).fit(NORMALS, seed=0)
    stored, _ = checkpoint.read(detector.save(tmp_path / "half.safetensors"))
    assert {v.dtype for k, v in stored.items() if k.startswith("purifier.unet.")} == {torch.float16}
    assert stored["inner.mean_brightness"].dtype == torch.float32


def test_a_checkpoint_of_another_member_is_refused(ae: Any, tmp_path: Path) -> None:
    path = ae.save(tmp_path / "ae.safetensors")
    with pytest.raises(CheckpointError, match="detector 'purify:ae'"):
        purify("brightness").load(path)


# -- the family -------------------------------------------------------------------------------------------------------


def test_every_detector_but_freerad_can_be_purified_and_none_is_part_of_all() -> None:
    (family,) = (f for f in registry.families() if f.prefix == "purify")
    assert set(family.members()) == set(registry.names()) - {"freerad"}
    for member in family.members():
        cls = registry.get(f"purify:{member}")
        assert cls is registry.get(f"purify:{member}") and cls.name == f"purify:{member}"
        assert cls.is_stochastic and cls.name not in registry.names()
        assert cls.settings_for("quick", 128).inner == registry.get(member).settings_for("quick", 128)
        # What it does beside loading tensors belongs into `_after_load`, which a detector that holds it calls.
        assert registry.get(member).load is Detector.load, member


def test_quick_and_paper_are_freerads_networks_at_k_100_in_one_shot() -> None:
    for preset, size in (("quick", 128), ("paper", 256)):
        theirs = FreeRAD.settings_for(preset, size)
        mine = registry.get("purify:brightness").settings_for(preset, size).purifier
        assert (mine.k, mine.denoising_steps) == (100, 1)
        for name in ("work_size", "storage", "unet", "training", "schedule"):
            assert getattr(mine, name) == getattr(theirs, name)


def test_another_revision_of_a_part_is_another_revision(coin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.get("purify:brightness").revision == FreeRAD.revision + Brightness.revision - 1
    assert registry.get("purify:coin").revision == FreeRAD.revision + 3
    assert registry.create("purify:coin", image_size=64).min_normals == 5
    assert registry.create("purify:spade", image_size=64, **{"inner.neighbours": 7}).min_normals == 7
    assert registry.create("purify:pls", image_size=64, **{"inner.spatial_components": 12}).min_normals == 14


def test_members_of_other_families_can_be_purified(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Coin):
        name = "half:one"

    families = {**registry._FAMILIES, "half": registry.Family("half", lambda: ("one",), lambda member: Half, "half")}
    monkeypatch.setattr(registry, "_FAMILIES", families)
    assert registry.get("purify:half:one").name == "purify:half:one"


def test_what_makes_no_sense_is_refused_with_a_sentence(coin: None) -> None:
    for name, words in (
        ("purify:freerad", "purify twice.*use freerad"),
        ("purify:purify:ae", "purify twice.*use purify:ae"),
        ("purify:spad", "did you mean 'spade'"),
    ):
        with pytest.raises(DetectorError, match=words):
            registry.get(name)
    for overrides, words in (
        ({"fit_on": "blurred"}, "fit_on must be clean or purified"),
        ({"purifier.k": "auto"}, r"purifier\.k must be a timestep"),
        ({"purifier.k": 0}, r"In the purifier of purify:ae, freerad's k must lie in 1\.\.1000"),
        ({"purifier.scales": 2}, "no setting 'scales'"),
        ({"inner.levels": 0}, "ae's levels"),
    ):
        with pytest.raises(DetectorError, match=words):
            purify("ae", **overrides)
    with pytest.raises(DetectorError, match=r"--set purify:coin\.inner\.faces=3"):
        purify("coin", **{"inner.faces": "auto"})


def test_settings_of_the_parts_can_be_set_by_their_paths() -> None:
    detector = purify("spade", **{"purifier.k": 50, "inner.neighbours": 2, "fit_on": "purified"})
    assert detector.purifier.k == 50 and detector.inner.settings.neighbours == 2
    assert replace(detector.settings) == detector.settings
