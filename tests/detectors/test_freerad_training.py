"""Training: schedules, the moving average, and snapshots that change nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from freerad_small import random_images
from torch import Tensor

from detectors.freerad import stepping, training
from detectors.freerad.diffusion import Schedule, hybrid_loss, process
from detectors.freerad.gpu import graph
from detectors.freerad.training import TrainingSettings, remove_snapshot, train_unet
from detectors.freerad.unet import UNet, UNetSettings
from detectors.noise import generator

TINY = UNetSettings(channels=8, multipliers=(1,), blocks=1, attention_sides=())
SIDE = 8
SETTINGS = TrainingSettings(iterations=120, batch_size=2, learning_rate=1e-3, warmup=10, decay=0.4, flip=True)


class KilledError(Exception):
    """Stands for a kill in the middle of a fit."""


class Watch:
    """A progress that notes the iterations and kills the fit after one of them."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.done: list[int] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.done.append(done)
        if done == self.kill_at:
            raise KilledError


def _train(
    settings: TrainingSettings = SETTINGS,
    *,
    seed: int = 1,
    images: Tensor | None = None,
    unet: UNetSettings = TINY,
    schedule: Schedule | None = None,
    workdir: Path | None = None,
    watch: Watch | None = None,
) -> tuple[UNet, dict[str, Any], Watch]:
    network = UNet(unet, SIDE)
    network.initialise(generator(seed, "weights"))
    watch = watch or Watch()
    report = train_unet(
        network,
        _images() if images is None else images,
        process(schedule or Schedule()),
        settings,
        seed=seed,
        progress=watch,
        workdir=workdir,
    )
    return network, report, watch


def _images() -> Tensor:
    return random_images(5, SIDE).float()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Name and content of what a fit leaves that is killed after iteration 60: its state after 50."""
    workdir = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(training, "SNAPSHOT_SECONDS", -1.0)
        _train(workdir=workdir, watch=Watch(kill_at=60))
    (path,) = workdir.iterdir()
    return path.name, path.read_bytes()


@pytest.fixture(scope="module")
def unbroken() -> tuple[UNet, dict[str, Any]]:
    network, report, watch = _train()
    assert watch.done == list(range(1, 121))
    return network, report


def test_a_killed_fit_that_goes_on_ends_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, snapshot: tuple[str, bytes], unbroken: tuple[UNet, dict[str, Any]]
) -> None:
    (tmp_path / snapshot[0]).write_bytes(snapshot[1])
    network, report, watch = _train(workdir=tmp_path)
    assert watch.done == list(range(51, 121)), "it did not go on from the snapshot"
    for (name, mine), theirs in zip(network.named_parameters(), unbroken[0].parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert report == unbroken[1]
    # The last snapshot stays until the caller has stored the weights: a full disk at that moment loses nothing.
    again, _, late = _train(workdir=tmp_path)
    assert late.done == [] and torch.equal(next(again.parameters()), next(network.parameters()))
    remove_snapshot(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"images": random_images(5, SIDE, seed=9).float()},
        {"images": random_images(4, SIDE).float()},
        {"settings": replace(SETTINGS, iterations=121)},
        {"unet": UNetSettings(channels=8, multipliers=(1,), blocks=1, attention_sides=(8,))},
        {"schedule": Schedule(beta_last=0.03)},
    ],
    ids=["seed", "images", "fewer images", "settings", "architecture", "schedule"],
)
def test_a_snapshot_of_another_fit_is_left_alone(
    tmp_path: Path, snapshot: tuple[str, bytes], changed: dict[str, Any]
) -> None:
    (tmp_path / snapshot[0]).write_bytes(snapshot[1])
    watch = Watch(kill_at=1)
    with pytest.raises(KilledError):
        _train(workdir=tmp_path, watch=watch, **changed)
    watch = Watch(kill_at=51)
    with pytest.raises(KilledError):
        _train(workdir=tmp_path, watch=watch)
    assert watch.done == [51], "the snapshot of the first fit should still serve the first fit"


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "half the header",
        "half the tensors",
        "no metadata",
        "not even text",
        "one bit of a weight",
        "other iterations",
        "no hash",
    ],
)
def test_a_damaged_snapshot_starts_the_fit_from_the_beginning(
    tmp_path: Path, snapshot: tuple[str, bytes], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, data = snapshot
    (tmp_path / name).write_bytes(
        {
            "empty": b"",
            "half the header": data[:200],
            "half the tensors": data[: len(data) * 3 // 4],
            "no metadata": (2).to_bytes(8, "little") + b"{}",
            "not even text": b"\xff" * 1000,
            "one bit of a weight": data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
            "other iterations": data.replace(b'"done":"50"', b'"done":"90"'),
            "no hash": data.replace(b'"sha256"', b'"sha 56"'),  # as of an earlier version
        }[damage]
    )
    watch = Watch(kill_at=1)
    with pytest.raises(KilledError):
        _train(workdir=tmp_path, watch=watch)
    assert watch.done == [1]
    assert "damaged" in caplog.text


def test_training_follows_its_seed_and_leaves_the_global_state_alone() -> None:
    short = TrainingSettings(iterations=3, batch_size=2, flip=True)
    one, _, _ = _train(short)
    two, _, _ = _train(short)  # _train itself has moved the global state: a constructor draws from it
    other, _, _ = _train(short, seed=2)
    network = UNet(TINY, SIDE)
    before = torch.random.get_rng_state()
    network.initialise(generator(1, "weights"))
    train_unet(network, _images(), process(Schedule()), short, seed=1, progress=Watch(), workdir=None)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_training_lowers_the_loss(unbroken: tuple[UNet, dict[str, Any]]) -> None:
    history = unbroken[1]["loss"]
    assert [iteration for iteration, _ in history] == [50, 100, 120]
    assert history[-1][1] < 0.9 * history[0][1]


def test_two_iterations_are_adam_and_the_average_written_out() -> None:
    """A second implementation: gradients by autograd, Adam (Kingma & Ba 2015) and the average by hand.

    In float64, since Adam turns the rounding of a gradient near zero into a step of full size.
    """
    settings = TrainingSettings(iterations=2, batch_size=2, learning_rate=1e-3, ema=0.9999, warmup=4)
    network, shadow = UNet(TINY, SIDE).double(), UNet(TINY, SIDE).double()
    for unet in (network, shadow):
        unet.initialise(generator(1, "weights"))
    images = random_images(5, SIDE)
    train_unet(network, images, process(Schedule()), settings, seed=1, progress=Watch(), workdir=None)
    weights = list(shadow.parameters())
    average = [w.detach().clone() for w in weights]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    seen: list[int] = []
    for i in range(2):
        draws = generator(1, "freerad-train", i)
        chosen = torch.randperm(5, generator=generator(1, "freerad-order", 0))[2 * i : 2 * i + 2]
        seen += chosen.tolist()
        index = torch.randint(1000, (2,), generator=draws)
        noise = torch.randn(2, 3, SIDE, SIDE, generator=draws).double()
        simple, variational = hybrid_loss(shadow, images[chosen], index, noise, process(Schedule()), 0.001)
        gradients = torch.autograd.grad((simple + variational).mean(), weights)
        rate = 1e-3 * (i + 1) / 4
        decay = (1 + i) / (10 + i)
        with torch.no_grad():
            for j, (w, g) in enumerate(zip(weights, gradients, strict=True)):
                first[j] = 0.9 * first[j] + 0.1 * g
                second[j] = 0.999 * second[j] + 0.001 * g * g
                unbiased = first[j] / (1 - 0.9 ** (i + 1)), second[j] / (1 - 0.999 ** (i + 1))
                w -= rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
                average[j] = decay * average[j] + (1 - decay) * w
    assert len(set(seen)) == 4, "an epoch takes each image once"
    for (name, found), expected in zip(network.named_parameters(), average, strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9), name


def test_an_epoch_shows_every_image_once() -> None:
    shown = [i for iteration in range(10) for i in training._indices(5, iteration, 2, seed=3)]
    for epoch in range(4):
        assert sorted(shown[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert shown[:5] != shown[5:10]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = TrainingSettings(iterations=100, warmup=10, decay=0.4)
    rates = [training._rate(i, settings) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:61] == [1.0] * 51
    assert rates[61:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 40)) for i in range(1, 40)], abs=1e-6)
    assert {training._rate(i, TrainingSettings()) for i in (0, 1, 15_000, 29_999)} == {1.0}, "the paper's is constant"


def test_flips_are_mirror_images_of_either_kind() -> None:
    images = _images()
    settings = TrainingSettings(batch_size=1, flip=True)
    kinds = set()
    for iteration in range(40):
        plain = training._batch(images, iteration, TrainingSettings(batch_size=1), generator(0, iteration), 1)
        shown = training._batch(images, iteration, settings, generator(0, iteration), 1)
        dims = [(), (-1,), (-2,), (-1, -2)]
        (kind,) = [d for d in dims if torch.equal(shown, plain.flip(d))]
        kinds.add(kind)
    assert len(kinds) == 4


def test_timesteps_stay_below_the_largest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(denoiser: Any, x0: Tensor, index: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.extend(index.tolist())
        return hybrid_loss(denoiser, x0, index, *rest)

    monkeypatch.setattr(stepping, "hybrid_loss", spy)
    _train(TrainingSettings(iterations=30, batch_size=4, largest_timestep=5))
    assert set(seen) == {0, 1, 2, 3, 4}


def test_gradients_are_scaled_down_to_the_norm_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    honest = torch.nn.utils.clip_grad_norm_

    def spy(parameters: Any, norm: float) -> Tensor:
        asked.append(norm)
        return honest(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    _train(TrainingSettings(iterations=2, gradient_norm=0.5))
    assert asked == [0.5, 0.5]
    _train(TrainingSettings(iterations=2, gradient_norm=0.0))
    assert asked == [0.5, 0.5], "0 turns it off"


def test_sixteen_bit_training_learns_what_float32_learns_and_keeps_float32_weights() -> None:
    settings = replace(SETTINGS, iterations=60, flip=False)
    (exact, reference, _), (network, report, _) = (
        _train(replace(settings, precision=precision)) for precision in ("float32", "bfloat16")
    )
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    assert report["loss"][-1][1] == pytest.approx(reference["loss"][-1][1], rel=0.02)
    apart = [not torch.equal(a, b) for a, b in zip(exact.parameters(), network.parameters(), strict=True)]
    assert any(apart), "nothing was computed in 16 bits"


def test_a_slow_disk_gets_few_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes 2 seconds is not worth repeating before 100 have passed."""
    clock, saved = [0.0], []

    def save(self: Any, done: int, *rest: Any) -> None:
        saved.append(done)
        clock[0] += 2.0

    class Ticking(Watch):
        def __call__(self, done: int, total: int, note: str = "") -> None:
            clock[0] += 1.0

    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(training._Snapshot, "save", save)
    _train(TrainingSettings(iterations=450, batch_size=2), workdir=tmp_path, watch=Ticking())
    assert saved == [100, 250, 400, 450], "the first after a minute, the next after 100 seconds, and the last"


def test_a_step_that_cannot_be_recorded_costs_a_warning_and_no_training(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = UNet(TINY, SIDE), _images()[:2]

    def broken(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graph, "Replay", broken)
    step = stepping.step_function(network, process(Schedule()), 0.001, "float32", images.shape, torch.device("cpu"))
    assert graph.recorded(step, network, images.shape, torch.device("cpu")) is step
    assert "not permitted" in caplog.text and "and more" not in caplog.text
    assert all(weight.grad is None for weight in network.parameters())


class _Tape:
    """Stands for CUDA's streams and graphs: a recording that a CPU plays by doing the step again."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.again: Any = None

    def wait_stream(self, other: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass

    def replay(self) -> None:
        self.again()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recorded_step_reads_its_new_inputs_and_its_results_outlive_the_next(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, _Tape)
    network = UNet(TINY, SIDE)
    network.initialise(generator(1, "weights"))
    cpu, shape = torch.device("cpu"), torch.Size((2, 3, SIDE, SIDE))
    step = stepping.step_function(network, process(Schedule()), 0.001, precision, shape, cpu)
    recorded = graph.recorded(step, network, shape, cpu)
    assert isinstance(recorded, graph.Replay)
    kept = [weight.grad for weight in network.parameters()]
    inputs = recorded.x0, recorded.index, recorded.noise
    recorded.graph.again = lambda: recorded.simple.copy_(step(*inputs))
    draws = torch.Generator().manual_seed(3)
    found, expected = [], []
    for i in range(2):
        batch = _images()[i : i + 2], torch.tensor([7, 900]), torch.randn(shape, generator=draws)
        found.append(recorded(*batch))
        gradients = [g.clone() for g in kept if g is not None]
        expected.append(step(*batch))
        again = [w.grad for w in network.parameters()]
        for a, b, c in zip(again, kept, gradients, strict=True):
            assert a is not None and a is b and torch.equal(a, c)
    assert found == expected and found[0] != found[1]


def test_sixteen_bits_tell_neighbouring_timesteps_apart() -> None:
    """bfloat16 has no number between 612 and 616: the embedding must be made in more bits."""
    network = UNet(TINY, SIDE)
    embeddings = [network.embedding_of(torch.tensor([t]), torch.bfloat16) for t in (612, 613, 614, 615, 616)]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(embeddings))
    assert {e.dtype for e in embeddings} == {torch.bfloat16}
