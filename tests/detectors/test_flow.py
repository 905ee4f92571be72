"""Coupling flows: log-determinants against autograd's Jacobian, and FrEIA's block with equal weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from detectors.noise import generator
from detectors.parts import flow
from detectors.parts.flow import Coupling, Flow, MapSubnet, VectorSubnet, orthogonal, permutation


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "test"), dtype=torch.float64)


def disturb(module: nn.Module) -> None:
    """Weights as after training: gains and offsets away from 1 and 0, log-scales well into the clamp."""
    draws = generator(1, "disturb")
    for key, parameter in module.named_parameters():
        parameter.data += (3.0 if "last" in key or "gain" in key else 0.3) * torch.randn(
            parameter.shape, generator=draws, dtype=parameter.dtype
        )


def vector_flow(channels: int = 5, *, soft: bool = True, conditions: int = 4, steps: int = 3) -> Flow:
    made = flow.vector_flow(
        channels, steps, lambda i, o: VectorSubnet(i, o, 2 * (i + conditions), conditions), clamp=1.9
    )
    made.initialise(generator(2, "weights"), soft=soft)
    disturb(made.double())
    return made


def map_flow(channels: int = 5, *, soft: bool = False, steps: int = 3) -> Flow:
    made = flow.map_flow(channels, steps, lambda i, o, s: MapSubnet(i, o, 6, 1 if s % 2 else 3), clamp=2.0)
    made.initialise(generator(3, "weights"), soft=soft)
    disturb(made.double())
    return made


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("channels", [2, 5, 6])
def test_log_determinant_of_vectors_is_that_of_the_jacobian(channels: int, soft: bool) -> None:
    made = vector_flow(channels, soft=soft)
    x, condition = draw(3, channels), draw(3, 4, seed=1)
    _, found = made(x, condition)
    assert found.shape == (3,)
    for i in range(3):
        matrix = jacobian(lambda v, i=i: made(v, condition[i])[0], x[i])
        torch.testing.assert_close(found[i], torch.linalg.slogdet(matrix).logabsdet, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("soft", [True, False])
def test_log_determinants_of_a_map_sum_to_that_of_the_jacobian(soft: bool) -> None:
    made = map_flow(soft=soft)
    x = draw(2, 5, 3, 4)
    _, found = made(x)
    assert found.shape == (2, 3, 4)
    for i in range(2):
        matrix = jacobian(lambda v: made(v.view(1, 5, 3, 4))[0].flatten(), x[i].flatten())
        expected = torch.linalg.slogdet(matrix).logabsdet
        torch.testing.assert_close(found[i].sum(), expected, rtol=1e-5, atol=1e-5)


def test_a_log_scale_never_leaves_the_clamp() -> None:
    block = Coupling(4, VectorSubnet(2, 4, 8), clamp=1.9)
    block.initialise(generator(0, "weights"), soft=False)
    with torch.no_grad():
        _, found = block(1e6 * torch.ones(1, 4))
    assert float(found) == pytest.approx(float(found.clamp(-2 * 1.9, 2 * 1.9)), abs=1e-4)


def test_a_condition_that_broadcasts_equals_one_per_image() -> None:
    made = vector_flow()
    x, code = draw(3, 6, 5), draw(6, 4, seed=1)
    for shared, own in zip(made(x, code), made(x, code.expand(3, -1, -1)), strict=True):
        torch.testing.assert_close(shared, own)


def test_the_condition_matters() -> None:
    made, x = vector_flow(), draw(1, 5)
    assert float((made(x, draw(1, 4, seed=1))[0] - made(x, draw(1, 4, seed=2))[0]).abs().max()) > 1e-3


def test_a_new_flow_is_close_to_a_rotation_and_depends_on_the_generator_alone() -> None:
    def made(seed: int) -> Flow:
        torch.manual_seed(seed + 1)  # must not matter
        found = flow.vector_flow(8, 2, lambda i, o: VectorSubnet(i, o, 16), clamp=1.9)
        found.initialise(generator(seed, "weights"), soft=True)
        return found

    x = draw(50, 8).float()
    z, found = made(0)(x)
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1), rtol=0.15, atol=0.05)
    assert float(found.abs().max()) < 0.5
    same, other = made(0).state_dict(), made(1).state_dict()
    assert all(torch.equal(v, same[k]) for k, v in made(0).state_dict().items())
    assert not torch.equal(same["0.rotation"], other["0.rotation"])
    assert not torch.equal(same["0.rotation"], same["1.rotation"])


def test_rotations_are_orthogonal_uniform_and_permutations_permute() -> None:
    draws = generator(0, "rotations")
    many = torch.stack([orthogonal(6, draws).double() for _ in range(2000)])
    torch.testing.assert_close(many @ many.mT, torch.eye(6).double().expand(2000, 6, 6), rtol=0, atol=1e-5)
    # Haar: entries have mean 0 and variance 1 / n; LAPACK's own signs would give the diagonal a mean.
    assert float(many.mean(dim=0).abs().max()) < 5 * (1 / 6 / 2000) ** 0.5
    moved = permutation(9, draws) @ torch.arange(9.0)
    assert sorted(moved.tolist()) == list(range(9)) and moved.tolist() != list(range(9))


def _theirs(block: Coupling, dims: tuple[int, ...], condition: tuple[int, ...] | None, clamp: float) -> Any:
    modules = pytest.importorskip("FrEIA.modules")
    subnet = nn.Sequential(block.subnet.first, nn.ReLU(), block.subnet.last)
    made = modules.AllInOneBlock(
        [dims],
        dims_c=[condition] if condition else [],
        subnet_constructor=lambda i, o: subnet,
        affine_clamping=clamp,
        global_affine_type="SOFTPLUS",
    ).double()
    made.global_scale.data[:] = block.gain_parameter.detach().view_as(made.global_scale)
    made.global_offset.data[:] = block.offset.detach().view_as(made.global_offset)
    made.w_perm.data[:] = block.rotation.view_as(made.w_perm)
    return made


@pytest.mark.parametrize("is_map", [False, True])
def test_a_block_equals_freias_with_the_same_weights(is_map: bool) -> None:
    if is_map:
        ours, x, condition = next(map_flow()._blocks()), draw(2, 5, 4, 4), None
        theirs = _theirs(ours, (5, 4, 4), None, 2.0)
    else:
        ours, x, condition = next(vector_flow()._blocks()), draw(7, 5), draw(7, 4, seed=1)
        theirs = _theirs(ours, (5,), (4,), 1.9)
    y, found = ours(x, condition)
    (expected,), log_determinant = theirs([x], [condition] if condition is not None else [])
    torch.testing.assert_close(y, expected)
    # FrEIA counts an image's gains at all of its positions, we at each.
    torch.testing.assert_close(found.flatten(1).sum(1) if is_map else found, log_determinant)


def test_nothing_out_of_reach_moves_a_position_and_what_is_in_reach_does() -> None:
    made, x = map_flow(steps=2), draw(1, 5, 9, 9)  # a 3x3 block, a 1x1 block
    assert made.reach == 2 and vector_flow().reach == 0
    (found,) = torch.autograd.grad(made(leaf := x.clone().requires_grad_())[0][0, :, 4, 4].square().sum(), leaf)
    touched = found[0].abs().sum(dim=0) > 0
    assert bool(touched[2:7, 2:7].all()) and int(touched.sum()) == 25
