"""FreeRAD: reconstruct by diffusing and denoising, score by the reconstruction error.

"Robustness for Free: Adversarially Robust Anomaly Detection Through Diffusion Model" (ICLR 2023 submission),
Algorithms 1 to 4. The image is diffused to timestep k and denoised in one step (Algorithm 2, the default), in k steps
(Algorithm 1) or in any number between (Algorithm 3). The noise is fresh at every call: it is part of the defence.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors import checkpoint
from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.freerad.diffusion import (
    Process,
    Schedule,
    at,
    diffuse,
    log_variance,
    posterior_mean,
    predict_x0,
    process,
    shots,
)
from detectors.freerad.scoring import image_score, multiscale_error
from detectors.freerad.training import TrainingSettings, train_unet
from detectors.freerad.unet import UNet, UNetSettings
from detectors.noise import Noise, NoiseSeed, generator
from detectors.registry import register

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class FreeRADSettings(Settings):
    """FreeRAD's settings. A change of `training`, `unet`, `schedule`, `work_size` or `storage` needs a new fit.

    Attributes:
        k: the timestep that images are diffused to; "auto" lets the suite choose it on painted held-out normals.
        denoising_steps: 1 is one-shot, 0 means k (full-shot), anything between is arbitrary-shot.
        score_draws: reconstructions averaged before the maximum is taken; 1 in the paper. More is another detector.
        filter_size: side of the mean filter in pixels of the work size, odd.
        scales: scales of the error map.
        map_draws: noise draws per training image for the mean map of the normals.
        map_images: training images used for it at most.
        work_size: side at which the U-Net works; the input is resized to it differentiably.
        storage: dtype that the fitted weights are rounded to ("float32"; "float16" halves the checkpoint).
        unet, training, schedule: see there.
    """

    k: int | str = 100
    denoising_steps: int = 1
    score_draws: int = 1
    filter_size: int = 11
    scales: int = 4
    map_draws: int = 4
    map_images: int = 64
    work_size: int = 256
    storage: str = "float32"
    unet: UNetSettings = field(default_factory=UNetSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    schedule: Schedule = field(default_factory=Schedule)


def quick_settings(image_size: int) -> FreeRADSettings:
    """Sized for two CPU cores: 64 pixels, a small U-Net on 2 x 2-unshuffled pixels, stored in half precision.

    Tuned on painted held-out normals of ELPV mono: four trainings were begun and one was finished (the others learned
    no faster per second), 24 pairs of k and filter size were compared on clean images and 10 under PGD.
    """
    return FreeRADSettings(
        k="auto",
        filter_size=5,
        work_size=min(64, image_size),
        storage="float16",
        unet=UNetSettings(channels=32, multipliers=(1, 2, 4), blocks=1, attention_sides=(8,), unshuffle=2),
        training=TrainingSettings(
            iterations=5000, batch_size=8, learning_rate=1e-3, warmup=100, decay=0.4, ema=0.998, gradient_norm=1.0,
        ),
    )


@register
class FreeRAD(Detector):
    """The diffusion detector of the paper (module docstring)."""

    name = "freerad"
    title = "FreeRAD"
    paper = "Robustness for Free, ICLR 2023 submission"
    is_stochastic = True
    is_defence = True
    has_map = True
    has_reconstruction = True
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {"k": (25, 50, 100, 200, 300)}  # the paper's Table 8

    def __init__(self, settings: FreeRADSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        _check_settings(settings, image_size)
        self.unet = UNet(settings.unet, settings.work_size)
        self.process = process(settings.schedule)
        self.register_buffer("normal_map", torch.zeros(settings.work_size, settings.work_size))
        self.register_buffer("chosen_k", torch.tensor(settings.k if isinstance(settings.k, int) else 100))
        self.normal_map: Tensor
        self.chosen_k: Tensor
        self.k = int(self.chosen_k)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FreeRADSettings:
        """`quick` and `paper` (appendix C.1; the filter is 11 pixels at 256 and scales with the side)."""
        if preset == "quick":
            return quick_settings(image_size)
        scaled = max(3, round(11 * image_size / 256) // 2 * 2 + 1)
        sides = (16,) if image_size >= 64 else (8,)
        unet = UNetSettings(attention_sides=sides, multipliers=(1, 1, 2, 2, 4, 4)[: 6 if image_size >= 128 else 4])
        return FreeRADSettings(filter_size=scaled, work_size=image_size, unet=unet)

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        images = torch.cat([self._work(chunk) for chunk in torch.split(normals, 64)]) * 2 - 1
        trunk = self._trunk_key(images, seed)
        found = _find_trunk(trunk, workdir)
        if found is None:
            self.unet.initialise(generator(seed, "freerad-initial-weights"))
            report = train_unet(
                self.unet, images, self.process, self.settings.training, seed=seed, progress=progress, workdir=workdir
            )
            self._round_weights()
            if workdir is not None:
                tensors = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
                checkpoint.write(workdir / f"unet-{trunk[:16]}.safetensors", tensors, {"trunk": trunk, "fit": report})
        else:
            tensors, description = checkpoint.read(found)
            self.unet.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("unet.")})
            self.unet.to(normals)
            report = description["fit"]
        self.fit_report |= {**report, "trunk": trunk, "seed": seed, "normals": len(normals)}
        self.choose("k", self.k, normals, seed=seed)

    def _trunk_key(self, images: Tensor, seed: int) -> str:
        """What the weights of the U-Net depend on."""
        settings = [asdict(s) for s in (self.settings.unet, self.settings.training, self.settings.schedule)]
        described = json.dumps([settings, self.settings.storage, self.settings.work_size, seed, self.revision])
        pixels = images.detach().cpu().float().contiguous().numpy().tobytes()
        return hashlib.sha256(described.encode() + pixels).hexdigest()

    def _round_weights(self) -> None:
        dtype = getattr(torch, self.settings.storage)
        with torch.no_grad():
            for weight in self.unet.parameters():
                weight.copy_(weight.to(dtype))

    def choose(self, setting: str, value: int, normals: Tensor, *, seed: int) -> Self:
        """Use another k without a new fit: the mean error map of the normals is made again for it.

        Args:
            setting: "k", the only setting that can be chosen after the fit.
            value: the timestep.
            normals: the normal images that the fit saw, (N, 3, H, W).
            seed: of the fit.
        """
        if setting not in self.auto_choices:
            raise DetectorError(f"freerad can choose {', '.join(self.auto_choices)} after the fit, not {setting!r}.")
        self._set_k(value)
        count = min(self.settings.map_images, len(normals))
        chosen = torch.randperm(len(normals), generator=generator(seed, "freerad-map-images"))[:count].sort().values
        source = NoiseSeed(seed).source("freerad-normal-map", [str(int(i)) for i in chosen])
        total = torch.zeros_like(self.normal_map, dtype=torch.float64)
        was_training = self.training
        self.eval()
        with torch.no_grad():
            for start in range(0, count, 16):
                batch = self._work(normals[chosen[start : start + 16].to(normals.device)])
                for draw in range(self.settings.map_draws):
                    noise = source.pick(slice(start, start + 16)).at(draw)
                    total += self._errors(batch, noise).sum(dim=0).double()
        self.train(was_training)
        self.normal_map = (total / (count * self.settings.map_draws)).to(self.normal_map)
        return self

    def _set_k(self, value: int) -> None:
        if not 1 <= value <= self.settings.schedule.steps:
            raise DetectorError(f"freerad's k must lie in 1..{self.settings.schedule.steps}; got {value}.")
        self.k = int(value)
        self.chosen_k = torch.full_like(self.chosen_k, self.k)

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _work(self, x: Tensor) -> Tensor:
        side = self.settings.work_size
        if x.shape[-1] == side:
            return x
        if x.shape[-1] % side == 0:
            return F.avg_pool2d(x, x.shape[-1] // side)
        return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        return self._rebuilt(self._work(x), noise)

    def _rebuilt(self, x: Tensor, noise: Noise) -> Tensor:
        count = self.settings.denoising_steps or self.k
        # One chain of timesteps 1..k or a subsequence; one-shot is the chain with the single timestep k.
        chain = self.process if count == self.k else process(self.settings.schedule, shots(self.k, count))
        return (denoise(self.unet, x * 2 - 1, chain, self.k, noise) + 1) / 2

    def _errors(self, x: Tensor, noise: Noise) -> Tensor:
        draws = self.settings.score_draws
        sources = [noise] if draws == 1 else [noise.sub(draw) for draw in range(draws)]
        maps = [
            multiscale_error(x, self._rebuilt(x, source), self.settings.scales, self.settings.filter_size)
            for source in sources
        ]
        return torch.stack(maps).mean(dim=0)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return image_score(self._errors(self._work(x), noise), self.normal_map)

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        deviation = (self._errors(self._work(x), noise) - self.normal_map).abs()[:, None]
        if deviation.shape[-2:] != x.shape[-2:]:
            deviation = F.interpolate(deviation, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return deviation[:, 0]

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def stored_dtypes(self) -> dict[str, torch.dtype]:
        """The U-Net's weights were rounded to the storage dtype, so nothing is lost by storing them in it."""
        return {"unet.": getattr(torch, self.settings.storage)}

    @classmethod
    def shipped_checkpoints(cls) -> list[Path]:
        """Those beside this file (made by `bench fit --export`)."""
        return sorted(CHECKPOINTS.glob("*.safetensors"))

    def load(self, path: Path) -> Self:
        """See Detector.load; also takes over the k that was chosen."""
        super().load(path)
        self._set_k(int(self.chosen_k))
        return self


def denoise(unet: UNet, x: Tensor, chain: Process, k: int, noise: Noise) -> Tensor:
    """Diffuse x (on [-1, 1]) to timestep k and walk back along the chain; the last x0 is the reconstruction.

    A chain of 1..T is walked from k down (Algorithm 1); a subsequence that ends at k from its end (Algorithm 3); the
    single timestep k is one shot (Algorithm 2).
    """
    start = int(torch.searchsorted(chain.timesteps, k))
    xt = diffuse(x, noise.normal(x.shape[1:], stream="diffuse", like=x), float(chain.alpha_bar[start]))
    for i in range(start, -1, -1):
        index = torch.tensor([i], device=x.device)  # one for all images: see UNet.forward
        predicted, raw = unet(xt, chain.timesteps.to(x.device)[index])
        x0 = predict_x0(xt, predicted, at(chain.alpha_bar, index, x))
        if i > 0:
            z = noise.normal(x.shape[1:], stream=f"step-{i}", like=x)
            spread = torch.exp(0.5 * log_variance(raw, index, chain))
            xt = posterior_mean(x0, xt, index, chain) + spread * z
    return x0


def _check_settings(settings: FreeRADSettings, image_size: int) -> None:
    multiple = settings.unet.side_multiple()
    if settings.work_size % multiple:
        raise DetectorError(
            f"freerad's work_size {settings.work_size} must be a multiple of {multiple} for this U-Net; "
            f"set it to {max(multiple, settings.work_size // multiple * multiple)}."
        )
    if settings.work_size % 2 ** (settings.scales - 1):
        raise DetectorError(
            f"freerad's work_size {settings.work_size} must be a multiple of {2 ** (settings.scales - 1)} "
            f"for {settings.scales} scales."
        )
    if settings.filter_size % 2 == 0 or not 1 <= settings.filter_size < settings.work_size:
        raise DetectorError(f"freerad's filter_size must be odd and below {settings.work_size}; set it to 11.")
    if isinstance(settings.k, str) and settings.k != "auto":
        raise DetectorError(f"freerad's k must be a timestep or 'auto'; got {settings.k!r}.")
    if isinstance(settings.k, int) and not 1 <= settings.k <= settings.schedule.steps:
        raise DetectorError(f"freerad's k must lie in 1..{settings.schedule.steps}; got {settings.k}.")
    if settings.storage not in ("float32", "float16"):
        raise DetectorError(f"freerad's storage must be float32 or float16; got {settings.storage!r}.")


def _find_trunk(trunk: str, workdir: Path | None) -> Path | None:
    """A checkpoint with these very U-Net weights: one of this machine's, or one that ships with the package."""
    candidates = [workdir / f"unet-{trunk[:16]}.safetensors"] if workdir else []
    candidates += sorted(CHECKPOINTS.glob("*.safetensors"))
    for path in candidates:
        if checkpoint.exists(path):
            description: dict[str, Any] = checkpoint.read_description(path)
            if trunk in (description.get("trunk"), description.get("fit", {}).get("trunk")):
                return path
    return None


def with_training(settings: FreeRADSettings, **changes: Any) -> FreeRADSettings:
    """The settings with some of the training's replaced."""
    return replace(settings, training=replace(settings.training, **changes))
