"""What FreeRAD's settings must fulfil, said before hours of training instead of after."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectors.errors import DetectorError
from detectors.freerad.settings import FreeRADSettings
from detectors.freerad.stepping import PRECISIONS

MOST_STEPS = 100_000  # of the schedule, whose coefficients are tables; published ones have 1,000 to 4,000


def check_settings(settings: FreeRADSettings, choices_of_k: Sequence[int]) -> None:
    """Raise DetectorError where a setting cannot work; `choices_of_k` are what "auto" chooses among."""
    steps = settings.schedule.steps
    if not 1 <= steps <= MOST_STEPS:
        raise DetectorError(f"freerad's schedule.steps must lie in 1..{MOST_STEPS}; got {steps}.")
    if isinstance(settings.k, str) and settings.k != "auto":
        raise DetectorError(f"freerad's k must be a timestep or 'auto'; got {settings.k!r}.")
    possible = [settings.k] if isinstance(settings.k, int) else choices_of_k
    if min(possible) < 1 or max(possible) > steps:
        raise DetectorError(f"freerad's k must lie in 1..{steps}; got {settings.k}.")
    check_denoising_steps(settings, min(possible))
    if not 0 < settings.schedule.beta_first <= settings.schedule.beta_last < 1:
        raise DetectorError("freerad's betas must rise within (0, 1); set schedule.beta_first and schedule.beta_last.")
    for name in ("score_draws", "map_draws", "scales"):
        _at_least_one(name, getattr(settings, name))
    _check_map_images(settings.map_images)
    _check_given_noise(settings)
    if settings.storage not in ("float32", "float16"):
        raise DetectorError(f"freerad's storage must be float32 or float16; got {settings.storage!r}.")
    _check_unet(settings)
    _check_sides(settings)
    _check_training(settings)


def check_denoising_steps(settings: FreeRADSettings, k: int) -> None:
    """Raise DetectorError unless k timesteps leave room for the denoising steps."""
    if not 0 <= settings.denoising_steps <= k:
        raise DetectorError(
            f"freerad's denoising_steps must lie in 0..{k} (0 means all) to denoise from k = {k}; "
            f"got {settings.denoising_steps}."
        )


def _check_given_noise(settings: FreeRADSettings) -> None:
    given = settings.given_noise
    if not (isinstance(given, int | float) and math.isfinite(given) and given >= 0):
        raise DetectorError(
            f"freerad's given_noise must be a number from 0 on, a standard deviation on [0, 1]; got {given!r}."
        )
    for name in ("denoising_steps", "score_draws"):
        if given > 0 and getattr(settings, name) != 1:
            raise DetectorError(
                f"freerad's {name} must be 1 where images carry the noise (given_noise = {given:g}) and nothing is "
                f"drawn; got {getattr(settings, name)}."
            )


def _check_map_images(value: object) -> None:
    if value is None:
        return
    if type(value) is not int:  # over None `registry.override` lets anything be set
        raise DetectorError(f"freerad's map_images must be a whole number, or left out for all images; got {value!r}.")
    _at_least_one("map_images", value)


def _check_unet(settings: FreeRADSettings) -> None:
    unet = settings.unet
    for name in ("channels", "blocks", "heads", "unshuffle"):
        _at_least_one(f"unet.{name}", getattr(unet, name))
    if not unet.multipliers or min(unet.multipliers) < 1:
        raise DetectorError(f"freerad's unet.multipliers must be positive numbers; got {unet.multipliers}.")
    if unet.channels % 2 or any(unet.channels * m % unet.heads for m in unet.multipliers):
        raise DetectorError(
            f"freerad's unet.channels must be even and every level's width a multiple of unet.heads; "
            f"got {unet.channels} channels and {unet.heads} heads."
        )
    if unet.dropout != 0:  # torch's dropout draws from the global random state: no seed and no resume would hold
        raise DetectorError(f"freerad's unet.dropout must be 0, as in the paper; got {unet.dropout:g}.")


def _check_sides(settings: FreeRADSettings) -> None:
    side, multiple = settings.work_size, settings.unet.side_multiple()
    if side < 1 or side % multiple:
        raise DetectorError(
            f"freerad's work_size {side} must be a multiple of {multiple} for this U-Net; "
            f"set it to {max(multiple, side // multiple * multiple)}."
        )
    if side % 2 ** (settings.scales - 1):
        raise DetectorError(
            f"freerad's work_size {side} must be a multiple of {2 ** (settings.scales - 1)} "
            f"for {settings.scales} scales; change one of the two."
        )
    if settings.filter_size % 2 == 0 or not 1 <= settings.filter_size < side:
        raise DetectorError(
            f"freerad's filter_size must be odd and below {side}, the work_size; got {settings.filter_size}."
        )


def _check_training(settings: FreeRADSettings) -> None:
    training = settings.training
    for name in ("iterations", "batch_size"):
        _at_least_one(f"training.{name}", getattr(training, name))
    if not 1 <= training.largest_timestep <= settings.schedule.steps:
        raise DetectorError(
            f"freerad's training.largest_timestep must lie in 1..{settings.schedule.steps}; "
            f"got {training.largest_timestep}."
        )
    for name in ("decay", "ema"):
        if not 0 <= getattr(training, name) <= 1:
            raise DetectorError(f"freerad's training.{name} must lie in [0, 1]; got {getattr(training, name):g}.")
    for name in ("warmup", "vb_weight", "gradient_norm"):
        if not getattr(training, name) >= 0:
            raise DetectorError(f"freerad's training.{name} must not be negative; got {getattr(training, name):g}.")
    if training.precision not in PRECISIONS:
        raise DetectorError(
            f"freerad's training.precision must be one of {', '.join(PRECISIONS)}; got {training.precision!r}."
        )
    if not training.learning_rate > 0:
        raise DetectorError(f"freerad's training.learning_rate must be positive; got {training.learning_rate:g}.")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise DetectorError(f"freerad's {name} must be at least 1; got {value}.")
