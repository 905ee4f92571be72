"""FreeRAD: reconstruct by diffusing and denoising, score by the reconstruction error.

"Robustness for Free: Adversarially Robust Anomaly Detection Through Diffusion Model" (ICLR 2023 submission),
Algorithms 1 to 4. The image is diffused to timestep k and denoised in one step (Algorithm 2, the default), in k steps
(Algorithm 1) or in any number between (Algorithm 3). The noise is fresh at every call: it is part of the defence.

Under randomised smoothing an image comes with noise already. With `given_noise` that takes the place of the
diffusion's (the model works on [-1, 1], where the noise is twice as large as on [0, 1], and at `work_size`, where
averaged pixels have less of it): the score is then a function of the noisy image alone, which it compares with its own
reconstruction.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors import checkpoint
from detectors.base import Detector, Progress, evaluation
from detectors.errors import DetectorError
from detectors.freerad.checks import check_denoising_steps, check_settings
from detectors.freerad.diffusion import matched_timestep, process, shots
from detectors.freerad.reconstruction import denoise, denoise_given
from detectors.freerad.scoring import image_score, multiscale_error
from detectors.freerad.settings import FreeRADSettings, quick_settings
from detectors.freerad.training import TrainingSettings, remove_snapshot, train_unet
from detectors.freerad.unet import UNet, UNetSettings
from detectors.noise import Noise, NoiseSeed, generator
from detectors.registry import register
from detectors.store import key_of

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TRUNK_REVISION = 1  # of what trains the U-Net, whose weights outlive other revisions of the detector
DEFAULT_K = 100  # where k is "auto" and nobody has chosen yet


@register
class FreeRAD(Detector):
    """The diffusion detector of the paper (module docstring)."""

    name = "freerad"
    title = "FreeRAD"
    paper = "Robustness for Free, ICLR 2023 submission"
    revision = 3  # last bits: every gradient is PyTorch's own, of the plain formula
    is_stochastic = True
    has_map = True
    score_is_map_maximum = True
    has_reconstruction = True
    surrogate_holds_reconstruction = True
    noise_setting = "given_noise"
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {"k": (25, 50, 100, 200, 300)}  # the paper's Table 8

    def __init__(self, settings: FreeRADSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        check_settings(settings, self.auto_choices["k"])
        if settings.given_noise > 0:
            self.is_stochastic = False
            self.auto_choices = {}  # type: ignore[misc]  # k follows
        self.unet = UNet(settings.unet, settings.work_size)
        self.process = process(settings.schedule)
        self.register_buffer("normal_map", torch.zeros(settings.work_size, settings.work_size))
        self.register_buffer("chosen_k", torch.tensor(self._initial_k()))
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
        training = TrainingSettings(precision="bfloat16")
        return FreeRADSettings(filter_size=scaled, work_size=image_size, unet=unet, training=training)

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        images = torch.cat([self._work(chunk) for chunk in torch.split(normals, 64)]) * 2 - 1
        trunk = self._trunk_key(images, seed)
        report = self._take_trunk(trunk, workdir)
        if report is None:
            started = time.monotonic()
            self.unet.initialise(generator(seed, "freerad-initial-weights"))
            report = train_unet(
                self.unet, images, self.process, self.settings.training, seed=seed, progress=progress, workdir=workdir
            )
            self._round_weights()
            tensors = self._stored_unet()
            seconds = time.monotonic() - started
            self.store.keep(trunk, tensors, trained_by=self.name, seconds=seconds, report=report)
            if workdir is not None:
                checkpoint.write(workdir / f"unet-{trunk[:16]}.safetensors", tensors, {"trunk": trunk, "fit": report})
                remove_snapshot(workdir)
        # Of a shipped checkpoint's report only what belongs to the training: its choice of k is not this fit's.
        kept = {key: report[key] for key in ("loss", "iterations", "unet_from", "unet_fit") if key in report}
        self.fit_report |= kept | {"trunk": trunk}
        self._set_k(self._initial_k())  # not what was chosen after an earlier fit
        self._measure_normals(normals, seed)

    def _take_trunk(self, trunk: str, workdir: Path | None) -> dict[str, Any] | None:
        """Take over these very weights: a killed fit's own, shipped ones or the store's; None where there are none."""
        own = workdir / f"unet-{trunk[:16]}.safetensors" if workdir else None
        shipped = self.shipped_checkpoints() if self.may_take_shipped else []
        like = self._stored_unet()
        found = checkpoint.find_trunk([own, *shipped] if own else shipped, trunk, like)
        if found is None:
            stored = self.store.find(trunk, like)  # a fit with another k or filter, or of another detector
            if stored is None:
                return None
            self._load_unet(stored.tensors)
            return stored.report | {"unet_from": "this machine", "unet_fit": stored.origin}
        path, tensors, description = found
        self._load_unet(tensors)
        report = checkpoint.report_of(description)
        if path == own:
            return report | {"unet_from": "this machine"}
        return {"unet_fit": checkpoint.origin_of(description)} | report | {"unet_from": "shipped"}

    def _load_unet(self, tensors: dict[str, Tensor]) -> None:
        self.unet.load_state_dict({k.removeprefix("unet."): v for k, v in tensors.items()})

    def _stored_unet(self) -> dict[str, Tensor]:
        """The U-Net's state as a checkpoint has it."""
        return {f"unet.{k}": self._stored(f"unet.{k}", v) for k, v in self.unet.state_dict().items()}

    def _trunk_key(self, images: Tensor, seed: int) -> str:
        """What the weights of the U-Net depend on."""
        settings = [asdict(s) for s in (self.settings.unet, self.settings.training, self.settings.schedule)]
        described = [settings, self.settings.storage, self.settings.work_size, seed, TRUNK_REVISION]
        return key_of(described, images)

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
        if self.settings.given_noise > 0 and value != self.k:
            raise DetectorError(f"freerad's k follows from given_noise and is {self.k}; there is nothing to choose.")
        if setting != "k":
            raise DetectorError(f"freerad can choose k after the fit, not {setting!r}.")
        self._require_fitted()
        self._check(normals)
        with torch.inference_mode(False):  # a map born in inference mode could never again carry a gradient
            self._set_k(value)
            self.to(device=normals.device, dtype=torch.float32)  # as in a fit, also after a check in float64
            self._measure_normals(normals.detach().to(torch.float32), seed)
        return self

    def _initial_k(self) -> int:
        if self.settings.given_noise > 0:
            return self._matched_k()
        return self.settings.k if isinstance(self.settings.k, int) else DEFAULT_K

    def _matched_k(self) -> int:
        """The timestep of the noise that images carry. Raises DetectorError where there is none."""
        settings: FreeRADSettings = self.settings
        # Resizing is linear in rows and in columns: on the diagonal stand the squares of the weights of each.
        kept = float(self._work(torch.eye(self.image_size)[None, None])[0, 0].diagonal().mean())
        try:
            k = matched_timestep(settings.schedule, 2 * kept * settings.given_noise)
        except ValueError as error:
            raise DetectorError(f"freerad's given_noise of {settings.given_noise:g} has no match. {error}") from None
        if k > settings.training.largest_timestep:
            raise DetectorError(
                f"freerad's given_noise of {settings.given_noise:g} is that of timestep {k}, which is not trained; "
                f"raise training.largest_timestep from {settings.training.largest_timestep}, or have less noise."
            )
        return k

    def _measure_normals(self, normals: Tensor, seed: int) -> None:
        """The mean error map of the normals at the present k, with the noise that images will carry."""
        count = min(self.settings.map_images or len(normals), len(normals))
        chosen = torch.randperm(len(normals), generator=generator(seed, "freerad-map-images"))[:count].sort().values
        source = NoiseSeed(seed).source("freerad-normal-map", [str(int(i)) for i in chosen])
        total = torch.zeros_like(self.normal_map, dtype=torch.float64)
        with evaluation(self), torch.no_grad():
            for start in range(0, count, 16):
                images = normals[chosen[start : start + 16].to(normals.device)]
                batch = self._work(images)
                for draw in range(self.settings.map_draws):
                    noise = source.pick(slice(start, start + 16)).at(draw)
                    if self.settings.given_noise > 0:
                        batch = self._work(images + self.settings.given_noise * _given(images, noise))
                    total += self._errors(batch, noise).sum(dim=0).double()
            self.normal_map = (total / (count * self.settings.map_draws)).to(self.normal_map)

    def _set_k(self, value: int) -> None:
        if not 1 <= value <= self.settings.schedule.steps:
            raise DetectorError(f"freerad's k must lie in 1..{self.settings.schedule.steps}; got {value}.")
        check_denoising_steps(self.settings, value)
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
        if self.settings.given_noise > 0:
            chain = process(self.settings.schedule, [self.k])
            return (denoise_given(self.unet, x * 2 - 1, chain, self.k) + 1) / 2
        count = self.settings.denoising_steps or self.k
        # One chain of timesteps 1..k or a subsequence; one-shot is the chain with the single timestep k.
        chain = self.process if count == self.k else process(self.settings.schedule, shots(self.k, count))
        return (denoise(self.unet, x * 2 - 1, chain, self.k, noise) + 1) / 2

    def _errors(self, x: Tensor, noise: Noise, *, held: bool = False) -> Tensor:
        """Error maps of images at the work size, the mean over the score's draws; `held`: no gradient goes through the
        reconstruction."""
        draws = self.settings.score_draws
        sources = [noise] if draws == 1 else [noise.sub(draw) for draw in range(draws)]
        maps = []
        for source in sources:
            rebuilt = self._rebuilt(x.detach() if held else x, source)
            maps.append(multiscale_error(x, rebuilt, self.settings.scales, self.settings.filter_size))
        return torch.stack(maps).mean(dim=0)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return image_score(self._errors(self._work(x), noise), self.normal_map)

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        """The score with the reconstruction held constant, as the paper's BPDA has it: for `--bpda`."""
        return image_score(self._errors(self._work(x), noise, held=True), self.normal_map)

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

    def _after_load(self) -> None:
        self._set_k(int(self.chosen_k))


def _given(images: Tensor, noise: Noise) -> Tensor:
    return noise.normal(images.shape[1:], stream="given", like=images)
