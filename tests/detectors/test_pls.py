"""PLS: two cascaded projections onto moving principal components, and an autoencoder trained against PGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detector_pictures import normal_pictures
from sklearn.decomposition import PCA
from torch import Tensor

from detectors import registry
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.images import resize
from detectors.parts.training import holdout
from detectors.pls import PLS
from detectors.pls import network as pls_network
from detectors.pls.network import PrincipalComponents, PrincipalLatentSpace, principal_components

TRAIN = normal_pictures(32, 16, seed=1)
TEST = normal_pictures(8, 16, seed=2)
EPSILON = 8 / 255
LONG = {"epochs": 60, "patience": 60, "attack_epsilon": EPSILON, "attack_steps": 5}


def pls(size: int = 16, **settings: object) -> PLS:
    detector = registry.create("pls", image_size=size, **{"widths": (8, 8, 16, 16), "poolings": 2, **settings})
    assert isinstance(detector, PLS)
    return detector


def latents(count: int, *, seed: int, channels: int = 6, side: int = 4) -> Tensor:
    """Latent maps (count, channels, side, side) in float64 with directions of very different variance."""
    draws = torch.Generator().manual_seed(seed)
    shape = (count, side * side, channels)
    maps = torch.randn(shape, generator=draws, dtype=torch.float64) * torch.linspace(0.1, 1, channels)
    maps = maps * torch.linspace(0.2, 2, side * side)[:, None] + torch.linspace(-1, 1, channels)
    return maps.transpose(1, 2).reshape(count, channels, side, side)


def space(*, vector: int = 1, spatial: int = 8) -> PrincipalLatentSpace:
    return PrincipalLatentSpace(6, 4, vector_components=vector, spatial_components=spatial).double()


def projector(components: PrincipalComponents) -> Tensor:
    return components.basis @ components.basis.T


def is_orthonormal(components: PrincipalComponents) -> bool:
    count = components.basis.shape[1]
    identity = torch.eye(count, dtype=components.basis.dtype)
    return torch.allclose(components.basis.T @ components.basis, identity, atol=1e-5)


def rows_along(angle: float, *, seed: int = 0) -> Tensor:
    """Points of the plane spread along one direction."""
    draws = torch.Generator().manual_seed(seed)
    points = torch.randn(50, 2, generator=draws, dtype=torch.float64) * torch.tensor([1.0, 0.01])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    return points @ turn


@pytest.fixture(scope="module")
def fitted() -> PLS:
    detector = pls(**LONG)
    detector.fit(TRAIN, seed=0)
    return detector


# -- the projection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [1, 2])
def test_vector_pca_and_then_spatial_pca_are_sklearns(vector: int) -> None:
    z = latents(40, seed=1)
    found = space(vector=vector)
    found.update(z, rate=1.0)

    channel_vectors = z.permute(0, 2, 3, 1).reshape(-1, 6).numpy()  # every position of every image is a sample
    by_vector = PCA(vector).fit(channel_vectors)
    np.testing.assert_allclose(
        found.vector.decode(found.vector.encode(torch.from_numpy(channel_vectors))).numpy(),
        by_vector.inverse_transform(by_vector.transform(channel_vectors)),
        atol=1e-9,
    )
    coordinates = by_vector.transform(channel_vectors).reshape(40, 16, vector)
    signs = np.sign((found.vector.basis.numpy() * by_vector.components_.T).sum(axis=0))
    if vector == 1:  # one map per image: sklearn can go on from its own coordinates
        maps = coordinates[:, :, 0] * signs
        by_map = PCA(8).fit(maps)
        rebuilt = by_map.inverse_transform(by_map.transform(maps)) * signs
        expected = by_vector.inverse_transform(rebuilt.reshape(-1, 1)).reshape(40, 4, 4, 6).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found(z).numpy(), expected, atol=1e-9)


def test_projecting_twice_changes_nothing_and_the_projection_is_affine() -> None:
    cascade = space(vector=2)
    cascade.update(latents(40, seed=1), rate=1.0)
    a, b = latents(3, seed=2), latents(3, seed=3)
    assert not torch.allclose(cascade(a), a, atol=0.1)
    torch.testing.assert_close(cascade(cascade(a)), cascade(a))
    for share in (0.3, -2.0, 5.0):
        torch.testing.assert_close(cascade(share * a + (1 - share) * b), share * cascade(a) + (1 - share) * cascade(b))


def test_no_more_than_the_spatial_components_pass_and_the_gradient_is_not_cut() -> None:
    cascade = space(spatial=5)
    cascade.update(latents(40, seed=1), rate=1.0)
    z = latents(1, seed=2)
    jacobian = torch.autograd.functional.jacobian(cascade, z).reshape(z.numel(), z.numel())
    assert int(torch.linalg.matrix_rank(jacobian)) == 5
    torch.testing.assert_close(jacobian @ jacobian, jacobian)  # the linear part of a projection


# -- the moving average -----------------------------------------------------------------------------------------------


def test_components_move_by_their_rate() -> None:
    components = PrincipalComponents(2, 1).double()
    components.update(rows_along(0.0) + 3, rate=1.0)
    start = components.mean.clone()
    components.update(rows_along(1.0, seed=1) - 1, rate=0.5)
    torch.testing.assert_close(components.mean, (start + (rows_along(1.0, seed=1) - 1).mean(dim=0)) / 2)
    angle = math.atan2(float(components.basis[1, 0]), float(components.basis[0, 0])) % math.pi
    assert angle == pytest.approx(0.5, abs=0.02)  # the mean of two unit vectors halves the angle between them


@pytest.mark.parametrize("count", [1, 3])
def test_sign_flips_and_rotations_of_the_new_components_change_nothing(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, more = (latents(40, seed=seed).flatten(1)[:, :12] for seed in (1, 2))
    plain, flipped = PrincipalComponents(12, count).double(), PrincipalComponents(12, count).double()
    for components in (plain, flipped):
        components.update(rows, rate=1.0)
    plain.update(more, rate=0.5)
    turn = torch.linalg.qr(torch.randn(count, count, generator=torch.Generator().manual_seed(0)).double()).Q

    def turned(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        mean, basis = principal_components(rows, count)
        return mean, -basis @ turn

    monkeypatch.setattr(pls_network, "principal_components", turned)
    flipped.update(more, rate=0.5)
    torch.testing.assert_close(projector(flipped), projector(plain))
    still = projector(plain).clone()
    for _ in range(20):  # the opposite of what is already there must not cancel it
        plain.update(more, rate=0.5)
    assert is_orthonormal(plain) and not torch.allclose(projector(plain), still)
    torch.testing.assert_close(projector(plain), (b := principal_components(more, count)[1]) @ b.T, atol=1e-4, rtol=0)


def test_components_stay_orthonormal_over_many_batches() -> None:
    cascade = space(vector=2)
    for seed in range(30):
        cascade.update(latents(12, seed=seed), rate=0.1)
        assert is_orthonormal(cascade.vector) and is_orthonormal(cascade.spatial)


def test_fitting_learns_components_and_keeps_them_orthonormal(fitted: PLS) -> None:
    fresh = pls().network.principal
    for name in ("vector", "spatial"):
        components = getattr(fitted.network.principal, name)
        assert is_orthonormal(components)
        assert not torch.allclose(projector(components), projector(getattr(fresh, name)), atol=0.1)


# -- the attack inside training ---------------------------------------------------------------------------------------


def test_training_attack_stays_in_the_ball_and_raises_the_error(fitted: PLS) -> None:
    images = TEST.clamp(0, 0.6)  # many pixels on a bound of what follows
    images[:, :, :4] = 0.0
    attacked = fitted._attack(images, generator(0, "test"))
    assert float((attacked - images).abs().max()) <= EPSILON + 1e-6
    assert float(attacked.min()) >= 0 and float(attacked.max()) <= 1
    random = images + EPSILON * torch.sign(torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    assert bool((fitted.score(attacked) > fitted.score(images)).all())
    assert bool((fitted.score(attacked) > fitted.score(random.clamp(0, 1))).all()), "no better than noise"
    assert torch.equal(attacked, fitted._attack(images, generator(0, "test")))
    assert not torch.equal(attacked, fitted._attack(images, generator(1, "test"))), "the start is not random"


def test_attacking_the_resized_image_covers_every_attack_on_the_input() -> None:
    x = normal_pictures(4, 128, seed=1)
    corner = x + EPSILON * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    for other in (corner, x + EPSILON):
        assert float((resize(other, 64) - resize(x, 64)).abs().max()) <= EPSILON + 1e-6


def test_adversarial_training_lowers_the_error_under_attack(fitted: PLS) -> None:
    plain = pls(**{**LONG, "attack_epsilon": 0.0})
    plain.fit(TRAIN, seed=0)
    errors = []
    for detector in (fitted, plain):
        twin = pls(**{**LONG, "attack_steps": 20})  # a stronger attack than the one in training, on the same weights
        twin.network.load_state_dict(detector.network.state_dict())
        errors.append(float(detector.score(twin._attack(TEST, generator(0, "test"))).mean()))
    assert errors[0] < 0.85 * errors[1]


# -- the detector -----------------------------------------------------------------------------------------------------


def test_score_is_the_mean_squared_error_of_the_reconstruction(fitted: PLS) -> None:
    expected = ((TEST - fitted.reconstruct(TEST)) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(fitted.score(TEST), expected)
    torch.testing.assert_close(fitted.anomaly_map(TEST).mean(dim=(1, 2)), expected)


def test_reconstruction_decodes_the_projected_sigmoid_latent(fitted: PLS) -> None:
    latent = fitted.network.encode(2 * TEST - 1)
    assert float(latent.min()) > 0 and float(latent.max()) < 1
    vectors = latent.flatten(2).transpose(1, 2)  # (B, s, v)
    by_vector, by_map = fitted.network.principal.vector, fitted.network.principal.spatial
    maps = (vectors - by_vector.mean) @ by_vector.basis[:, 0]  # (B, s)
    maps = (maps - by_map.mean) @ projector(by_map) + by_map.mean
    kept = (maps[..., None] * by_vector.basis[:, 0] + by_vector.mean).transpose(1, 2).reshape(latent.shape)
    torch.testing.assert_close(fitted.reconstruct(TEST), (fitted.network.decode(kept) + 1) / 2)


def test_a_larger_image_is_resized_inside() -> None:
    detector = pls(32, work_size=16, epochs=1)
    detector.fit(normal_pictures(12, 32, seed=1), seed=0)
    x = normal_pictures(2, 32, seed=2)
    small = resize(x, 16)
    torch.testing.assert_close(detector.score(x), (small - detector.network(small)).square().mean(dim=(1, 2, 3)))
    assert detector.reconstruct(x).shape == x.shape and detector.anomaly_map(x).shape == (2, 32, 32)


def test_training_reports_clean_and_attacked_losses_and_keeps_the_best_weights(fitted: PLS) -> None:
    report = fitted.fit_report
    trained, clean, attacked = zip(*report["losses"], strict=True)
    assert trained[-1] < 0.5 * trained[0] and all(a > c for a, c in zip(attacked, clean, strict=True))
    assert report["held_out_loss"] == min(attacked) and report["best_epoch"] == attacked.index(min(attacked))
    _, held_out = holdout(len(TRAIN), fitted.settings.holdout, generator(0, "pls-holdout"))
    assert float(fitted.score(TRAIN[held_out]).mean()) == pytest.approx(clean[report["best_epoch"]], rel=1e-4)


def test_training_stops_early() -> None:
    detector = pls(epochs=40, patience=2, learning_rate=0.05)  # too high: the loss goes up again
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) < 40 and len(report["losses"]) == report["best_epoch"] + 3


def test_presets_leave_spatial_pca_more_positions_than_it_keeps() -> None:
    for preset in ("quick", "paper"):
        for size in (32, 64, 128, 256):
            settings = PLS.settings_for(preset, size)
            positions = (settings.work_size // 2**settings.poolings) ** 2
            assert (settings.vector_components, settings.spatial_components) == (1, 8)
            assert len(settings.widths) == 4 and positions > 8
            PLS(settings, size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"work_size": 30}, "multiple of"),
        ({"poolings": 5}, "poolings"),
        ({"widths": ()}, "widths"),
        ({"vector_components": 17}, "vector_components must lie in 1 to 16"),
        ({"spatial_components": 17}, "spatial_components must lie in 1 to 16"),
        ({"batch_size": 8}, "batch_size"),
        ({"component_rate": 0.0}, "component_rate"),
        ({"attack_epsilon": -0.1}, "attack_epsilon"),
        ({"attack_steps": 0}, "attack_steps"),
        ({"attack_step_size": 0.0}, "attack_step_size"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        pls(**settings)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("components", [1, 7, 12])
def test_it_needs_as_many_normals_as_leave_more_than_its_spatial_components(components: int, share: float) -> None:
    least = pls(spatial_components=components, holdout=share).min_normals
    left = [len(holdout(count, share, generator(0))[0]) for count in range(1, 200)]
    assert least == 1 + next(i for i, trained in enumerate(left) if trained > components)
    assert all(trained > components for trained in left[least - 1 :])


def test_the_fewest_normals_can_be_fitted_on() -> None:
    detector = pls(spatial_components=12, epochs=1)
    assert detector.min_normals == 14
    assert bool(detector.fit(TRAIN[:14], seed=0).score(TEST).isfinite().all())


def test_components_that_are_reset_are_those_of_a_new_object() -> None:
    components = PrincipalComponents(12, 3).double()
    components.update(latents(40, seed=1).flatten(1)[:, :12], rate=1.0)
    fresh = PrincipalComponents(12, 3).double()
    assert not torch.equal(components.basis, fresh.basis) and not torch.equal(components.mean, fresh.mean)
    components.reset()
    assert torch.equal(components.mean, torch.zeros(12, dtype=torch.float64))
    assert torch.equal(components.basis, torch.eye(12, 3, dtype=torch.float64))


def test_too_few_images_and_diverging_training_are_refused() -> None:
    with pytest.raises(DetectorError, match="at least 10"):
        pls().fit(TRAIN[:9], seed=0)
    with pytest.raises(DetectorError, match="at least 14"):
        pls(spatial_components=12).fit(TRAIN[:13], seed=0)
    with pytest.raises(DetectorError, match="diverged"):
        pls(epochs=3, learning_rate=1e30).fit(TRAIN, seed=0)
