"""OCR-GAN's networks: the selection is per image, the branches hear of each other, and batches do not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import normal_pictures
from torch import nn

from detectors.noise import generator
from detectors.ocrgan.network import ChannelSelection, Discriminator, Generator


def test_channel_selection_is_a_softmax_over_the_branches() -> None:
    select = ChannelSelection(6, 3, trained=True)
    features = list(torch.rand(3, 2, 6, 4, 4, generator=generator(0)))
    squeezed = F.linear(sum(features).mean(dim=(2, 3)), select.squeeze.weight, select.squeeze.bias)
    logits = F.linear(squeezed, select.spread.weight, select.spread.bias).view(2, 3, 6)
    weights = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    for i, found in enumerate(select(features, None)):
        torch.testing.assert_close(found, features[i] * weights[:, i, :, None, None])


def test_random_selection_is_each_image_through_new_linear_layers_of_its_own() -> None:
    select = ChannelSelection(6, 2, trained=False)
    assert not list(select.parameters()), "untrained layers have no business in a checkpoint"
    draws = torch.rand(2, select.draws, generator=generator(0))
    features = list(torch.rand(2, 2, 6, 4, 4, generator=generator(1)))
    found = select(features, draws)
    for image in range(2):
        one = [f[image : image + 1] for f in features]
        layers, rest = [], draws[image]
        for inputs, outputs in ((6, 32), (32, 12)):
            layer = nn.Linear(inputs, outputs)
            own, rest = rest[: (inputs + 1) * outputs], rest[(inputs + 1) * outputs :]
            own = (2 * own - 1).view(inputs + 1, outputs) / math.sqrt(inputs)
            layer.load_state_dict({"weight": own[:-1].T, "bias": own[-1]})
            layers.append(layer)
        assert not len(rest)
        logits = layers[1](layers[0](sum(one).mean(dim=(2, 3)))).view(2, 6)
        weights = logits.softmax(dim=0)
        for branch in range(2):
            torch.testing.assert_close(found[branch][image], features[branch][image] * weights[branch][:, None, None])


def test_random_weights_have_the_distribution_of_a_new_linear_layer() -> None:
    fresh = nn.Linear(64, 400)
    select = ChannelSelection(64, 2, trained=False)
    draws = torch.rand(1, select.draws, generator=generator(0))
    zero = [torch.zeros(1, 64, 1, 1)] * 2
    unit = [torch.ones(1, 64, 1, 1), torch.zeros(1, 64, 1, 1)]
    assert not torch.equal(select(zero, draws)[0], select(unit, draws)[0])
    own = (2 * draws[0, : 65 * 32] - 1) / math.sqrt(64)
    assert float(own.std()) == pytest.approx(float(fresh.weight.detach().std()), rel=0.05)
    assert float(own.abs().max()) <= 1 / math.sqrt(64)


def test_generator_has_a_branch_per_band_that_hears_of_the_others() -> None:
    network = Generator(3, 4, 5, trained_selection=True).eval()
    bands = [torch.rand(1, 3, 32, 32, generator=generator(i)) for i in range(3)]
    before = network(bands)
    assert len(before) == 3 and all(band.shape == (1, 3, 32, 32) for band in before)
    after = network([bands[0], bands[1], bands[2] + 0.5])
    assert not torch.equal(before[0], after[0]), "channel selection connects the branches"


def test_discriminator_features_are_a_vector_from_the_whole_image() -> None:
    network = Discriminator(32, 4, 7).eval()
    x = normal_pictures(4, 32, seed=2).requires_grad_()
    logits, features = network(x)
    assert logits.shape == (4,) and features.shape == (4, 7)
    torch.testing.assert_close(logits, features @ network.classify.weight[0])
    (reached,) = torch.autograd.grad(features.square().sum(), x)
    assert float((reached.abs().sum(dim=1) > 0).float().mean()) > 0.99
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.features) == 4  # 32 -> 16 -> 8 -> 4 -> 1


def test_one_pass_of_several_batches_is_one_pass_after_the_other() -> None:
    """Each batch by its own statistics, which join the running ones as often as they are said to."""
    one, other = (Discriminator(32, 4, 7).double() for _ in range(2))
    other.load_state_dict(one.state_dict())
    batches = [torch.rand(3, 3, 32, 32, generator=generator(i)).double() for i in range(3)]
    passes = [one(batch) for i, batch in enumerate(batches) for _ in range(2 if i == 0 else 1)][1:]
    found = other.of_batches(batches, times=[2, 1, 1])
    for mine, theirs in zip(found, passes, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    sums = [sum((i + 1) * logits.sum() for i, (logits, _) in enumerate(outputs)) for outputs in (passes, found)]
    gradients = [torch.autograd.grad(sums[i], list(net.parameters())) for i, net in enumerate((one, other))]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-12, atol=1e-14)
