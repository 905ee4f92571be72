"""The noise source: one stream per (seed, purpose, image, draw, stream name)."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from detectors.noise import Noise, NoiseSeed, fresh, generator

IDS = ("a.png", "b.png", "c.png")
LIKE = torch.zeros(3, 1)


def normal(source: Noise, *, stream: str = "z", count: int = 64) -> torch.Tensor:
    return source.normal((count,), stream=stream, like=torch.zeros(len(source), 1))


def test_numbers_do_not_depend_on_batch_composition_or_order() -> None:
    source = NoiseSeed(1).source("attack", IDS)
    together = normal(source)
    assert torch.equal(normal(source.pick([2, 0])), together[[2, 0]])
    assert torch.equal(normal(source.pick(slice(1, 2))), together[1:2])
    assert torch.equal(normal(NoiseSeed(1).source("attack", ("new.png", *IDS)))[1:], together)
    assert torch.equal(normal(source), together), "drawing twice replays"


def test_seed_purpose_image_draw_and_stream_all_change_the_numbers() -> None:
    source = NoiseSeed(1).source("attack", IDS)
    drawn = [
        normal(source),
        normal(source.at(1)),
        normal(source.at(0, 1)),
        normal(source.sub(2)),
        normal(source, stream="y"),
        normal(NoiseSeed(1).source("verdict", IDS)),
        normal(NoiseSeed(2).source("attack", IDS)),
    ]
    rows = torch.cat(drawn)  # 7 sources of 3 images: 21 different streams
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert float(correlation.abs().max()) < 0.6


def test_nested_draws_are_paths() -> None:
    source = NoiseSeed(1).source("attack", IDS)
    assert source.at(3).sub(1, 2) == source.at(3, 1, 2)
    assert not torch.equal(normal(source.at(1, 23)), normal(source.at(12, 3)))


def test_no_image_name_can_spell_another_stream() -> None:
    seed = NoiseSeed(1)
    a = normal(seed.source("attack", ["x\x1fy"]), stream="z")
    b = normal(seed.source("attack", ["x"]), stream="y\x1fz")
    assert not torch.equal(a, b)


def test_the_key_of_a_purpose_does_not_hold_the_seed_or_another_key() -> None:
    attack, verdict = (NoiseSeed(5).source(purpose, IDS) for purpose in ("attack", "verdict"))
    assert attack.key != verdict.key and len(attack.key) == 32
    assert not hasattr(attack, "seed")


def test_normal_numbers_are_standard_normal_and_uniform_ones_uniform() -> None:
    source = NoiseSeed(3).source("test", [str(i) for i in range(200)])
    like = torch.zeros(200, 1)
    z = source.normal((5, 50), stream="z", like=like)
    u = source.uniform((5, 50), stream="u", like=like)
    assert z.shape == u.shape == (200, 5, 50)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert float(u.min()) >= 0.0 and float(u.max()) < 1.0
    # Across images, too: the first number of every stream.
    assert stats.kstest(z[:, 0, 0].numpy(), "norm").pvalue > 1e-3


def test_float64_replays_the_float32_numbers() -> None:
    source = NoiseSeed(1).source("attack", IDS)
    single = source.normal((4, 4), stream="z", like=LIKE)
    double = source.normal((4, 4), stream="z", like=LIKE.double())
    assert double.dtype == torch.float64 and torch.equal(single.double(), double)


def test_fresh_sources_never_repeat() -> None:
    first, second = fresh(2), fresh(2)
    assert first.key != second.key
    assert not torch.equal(normal(first), normal(second))
    assert not torch.equal(normal(first)[0], normal(first)[1])


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 images"):
        NoiseSeed(1).source("attack", IDS).normal((4,), stream="z", like=torch.zeros(2, 1))


def test_nothing_here_touches_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    normal(NoiseSeed(1).source("attack", IDS))
    torch.randn(3, generator=generator(1, "weights"))
    fresh(3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_generators_of_different_purposes_differ() -> None:
    keys: tuple[tuple[int, object, object], ...] = ((1, "a", ""), (1, "b", ""), (2, "a", ""), (1, "a", 0), (1, "a", 1))
    draws = [torch.rand(4, generator=generator(*key)) for key in keys]
    assert len({tuple(d.tolist()) for d in draws}) == len(draws)
    assert torch.equal(torch.rand(4, generator=generator(1, "a", "")), draws[0])
