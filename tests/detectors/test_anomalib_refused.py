"""What is refused is refused for what is measured here, and no image model of anomalib is left out."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detectors import registry
from detectors.anomalib_family import OFFERED
from detectors.anomalib_family.fence import own_randomness, stand_ins
from detectors.anomalib_family.refusals import REFUSED
from detectors.errors import DetectorError

anomalib = pytest.importorskip("anomalib")
with own_randomness(0):
    import anomalib.models.image


class Asked(Exception):  # noqa: N818 - a signal, not an error
    """Somebody asked for what would be a download."""


def torch_model(member: str) -> Any:
    return importlib.import_module(f"anomalib.models.image.{member}.torch_model")


@contextmanager
def offline() -> Iterator[None]:
    """Whoever asks timm or torchvision for pretrained weights is caught before anything is fetched."""
    import timm
    import torchvision.models._api

    def create_model(name: str, pretrained: bool = False, **_: Any) -> None:
        raise Asked(f"{name} pretrained={pretrained}")

    def load(url: str, *_: Any, **__: Any) -> None:
        raise Asked(url)

    with stand_ins(timm, create_model=create_model), stand_ins(torchvision.models._api, load_state_dict_from_url=load):
        yield


def asks_for(name: str, make: Callable[[Any], Any]) -> Callable[[str], None]:
    """Building the model asks for these pretrained weights."""

    def measure(member: str) -> None:
        with offline(), own_randomness(0), pytest.raises(Asked, match=name):
            make(torch_model(member))
        if not name.startswith("http"):
            assert name in REFUSED[member]

    return measure


def anomalyvfm(member: str) -> None:
    def hub(repo_id: str, **_: Any) -> None:
        raise Asked(repo_id)

    module, network = torch_model(member), SimpleNamespace(feature_dim=64, add_peft=lambda: None)
    replaced = stand_ins(module, hf_hub_download=hub, BaseModel=lambda: network)
    with replaced, pytest.raises(Asked, match="MaticFuc/anomalyvfm_radio"):
        module.AnomalyVFMModel()


def cfm(member: str) -> None:
    assert list(inspect.signature(torch_model(member).CFMModel.forward).parameters) == ["self", "rgb", "xyz"]


def dsr(member: str) -> None:
    """Its gradient says that a step changes the score; the score does not change."""
    torch.set_default_dtype(torch.float64)  # anomalib makes its codes in the default dtype
    try:
        with own_randomness(0):
            sizes = {"embedding_dim": 16, "num_embeddings": 64, "num_hiddens": 16, "num_residual_hiddens": 8}
            model = torch_model(member).DsrModel(**sizes).eval()
        for layer in model.modules():
            if hasattr(layer, "inplace"):
                layer.inplace = False  # else the opened graph cannot be walked at all
        x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert not model(x).pred_score.requires_grad, "as shipped there is no graph"

        def opened(images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = model.discrete_latent_model(images)["recon_image"].mean(dim=(1, 2, 3))
            return found

        (gradient,) = torch.autograd.grad(opened(x).sum(), x)
        size = gradient.flatten(1).norm(dim=1)
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            promised = (gradient * v).flatten(1).sum(dim=1)
            difference = (opened(x + 1e-7 * v) - opened(x)) / 1e-7
        error = (difference - promised).abs() / promised.abs()
        assert bool((size > 0).all()) and torch.allclose(error, torch.ones(2), atol=1e-2)
    finally:
        torch.set_default_dtype(torch.float32)


def efficient_ad(member: str) -> None:
    with own_randomness(0):
        model = torch_model(member).EfficientAdModel(teacher_out_channels=8).eval()
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # A graph there is, to the normalisation's constants; none leads to the image.
    assert torch.autograd.grad(model(x).pred_score.sum(), x, allow_unused=True) == (None,)
    module = importlib.import_module(f"anomalib.models.image.{member}.lightning_model")
    assert module.WEIGHTS_DOWNLOAD_INFO.url.startswith("https") and module.IMAGENETTE_DOWNLOAD_INFO.url


def uninet(member: str) -> None:
    """The mechanism that ends every score of UniNet detaches it; and building it asks for WideResNet-50-2."""
    module = torch_model(member)
    distances = [torch.rand(2, 8, 8, requires_grad=True)]
    score, anomaly_map = module.weighted_decision_mechanism(2, distances, 0.01, 3e-5, (32, 32))
    assert not score.requires_grad and not anomaly_map.requires_grad
    asks_for("http.*wide_resnet50_2", lambda m: m.UniNetModel("wide_resnet50_2", "wide_resnet50_2", None))(member)


def vlm_ad(member: str) -> None:
    backend = importlib.import_module(f"anomalib.models.image.{member}.backends").Backend
    assert inspect.signature(backend.predict).return_annotation in (str, "str")


def winclip(member: str) -> None:
    if importlib.util.find_spec("open_clip") is not None:
        pytest.skip("open_clip is installed here")
    with pytest.raises(ImportError, match="open_clip"):
        torch_model(member).WinClipModel()


MEASURED: dict[str, Callable[[str], None]] = {
    "anomaly_dino": asks_for("vit_small_patch14_dinov2", lambda m: m.AnomalyDINOModel()),
    "anomalyvfm": anomalyvfm,
    "cfm": cfm,
    "dinomaly": asks_for("vit_base_patch14_reg4_dinov2", lambda m: m.DinomalyModel()),
    "dsr": dsr,
    "efficient_ad": efficient_ad,
    "foundad": asks_for("vit_base_patch14_dinov2", lambda m: m.FoundADModel()),
    "general_ad": asks_for("vit_large_patch14_dinov2", lambda m: m.GeneralADModel()),
    "inp_former": asks_for("vit_base_patch14_reg4_dinov2", lambda m: m.InpFormerModel("vit_base_patch14_reg4_dinov2")),
    "l2bt": asks_for("vit_base_patch14_reg4_dinov2", lambda m: m.L2BTModel()),
    "rad": asks_for("vit_base_patch16_dinov3", lambda m: m.RadModel()),
    "super_add": asks_for("vit_huge_plus_patch16_dinov3", lambda m: m.SuperADDModel()),
    "uninet": uninet,
    "vlm_ad": vlm_ad,
    "winclip": winclip,
}


def test_every_image_model_of_anomalib_is_offered_or_refused() -> None:
    there = {module.name for module in pkgutil.iter_modules(anomalib.models.image.__path__) if module.ispkg}
    assert set(OFFERED) | set(REFUSED) == there
    assert not set(OFFERED) & set(REFUSED)
    assert set(MEASURED) == set(REFUSED), "a reason that nobody measured"


@pytest.mark.parametrize("member", sorted(REFUSED))
def test_the_reason_for_a_refusal_is_measured(member: str) -> None:
    MEASURED[member](member)


@pytest.mark.parametrize("member", sorted(REFUSED))
def test_a_refused_model_is_refused_by_name_with_its_reason(member: str) -> None:
    with pytest.raises(DetectorError) as error:
        registry.get(f"anomalib:{member}")
    assert str(error.value) == f"anomalib:{member} is refused: {REFUSED[member]}"
