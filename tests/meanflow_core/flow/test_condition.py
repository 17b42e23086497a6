"""Guidance as an input: what a row is conditioned on, what it is trained towards, and how it is asked."""

import math

import pytest
import torch

from meanflow_core.config import PRESETS, GuidanceConfig, ObjectiveConfig, WeightConfig, load_config
from meanflow_core.errors import ConfigError
from meanflow_core.flow import draw_scales, null_condition, with_scale
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives import meanflow_loss
from meanflow_core.sampling.sampler import guidance_scale, sample
from tests.meanflow_core.small_nets import REAL, batch

ROWS = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
DROPPED = torch.tensor([False, True, False, False, False, True, False])
SCALES = torch.tensor([1.0, 3.0, 2.5, 4.0, 1.5, 2.0, 6.0], dtype=torch.float64)
TOLD = GuidanceConfig(input=True, start=0.2, end=0.8)


def told_net(name="mlp"):
    config, shape = REAL[name]
    return randomise_(build_net(config, shape, 3, guided=True)).double(), shape


def loss(net, shape, objective=None, scales=SCALES, **given):
    x, noise, r, t = batch(shape)
    objective = objective or ObjectiveConfig(guidance=TOLD, weight=WeightConfig(power=0))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3, **given}
    return x, noise, r, t, meanflow_loss(net, x, noise, r, t, objective=objective, scales=scales, **options)


@pytest.mark.parametrize("name", REAL)
def test_a_network_that_is_told_the_scale_answers_by_it_and_by_1_where_none_is_given(name):
    net, shape = told_net(name)
    x, _, r, t = batch(shape)
    with torch.no_grad():
        plain = net(x, r, t, LABELS)
        one, two = (net(x, r, t, with_scale(LABELS, torch.full_like(t, scale))) for scale in (1.0, 2.0))
        null = net(x, r, t, null_condition(with_scale(LABELS, SCALES), 3))
        torch.testing.assert_close(one, plain, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(null, net(x, r, t, torch.full_like(LABELS, 3)), rtol=1e-11, atol=1e-11)
    assert (two - one).abs().amin() > 0


def test_a_network_without_the_input_has_the_weights_it_had_and_refuses_a_scale():
    config, shape = REAL["mlp"]
    torch.manual_seed(0)
    plain = build_net(config, shape, 3).state_dict()
    torch.manual_seed(0)
    told = build_net(config, shape, 3, guided=True).state_dict()
    assert set(told) > set(plain)
    assert all("scale" in name for name in set(told) - set(plain))
    x, _, r, t = batch(shape)
    with pytest.raises(ValueError, match="takes no scale"):
        build_net(config, shape, 3).double()(x, r, t, with_scale(LABELS, SCALES))
    with pytest.raises(ConfigError, match=r"objective\.guidance\.input: guidance is towards a class"):
        build_net(config, shape, None, guided=True)


def test_each_row_is_trained_towards_its_own_scale():
    """v~ = v + (1 - 1/w)(u(z, t, t | c, w) - u(z, t, t | null, 1)): iMF's mixture, row by row."""
    net, shape = told_net()
    x, noise, r, t, result = loss(net, shape)
    z = (1 - t[:, None]) * x + t[:, None] * noise
    with torch.no_grad():
        own = net(z, t, t, with_scale(LABELS, SCALES))
        null = net(z, t, t, torch.full_like(LABELS, 3))
    kappa = torch.where(DROPPED | (t < 0.2) | (t > 0.8), 0.0, 1 - 1 / SCALES)[:, None]
    assert (kappa[:ROWS] > 0).any()
    assert (kappa[ROWS:] > 0).any()
    wanted = noise - x + kappa * (own - null)
    torch.testing.assert_close(result.velocity, wanted, rtol=1e-11, atol=1e-11)
    seen = with_scale(torch.where(DROPPED, 3, LABELS), torch.where(DROPPED, 1.0, SCALES))
    tangents = (wanted, torch.zeros_like(r), torch.ones_like(t))
    u, du_dt = torch.func.jvp(lambda z, r, t: net(z, r, t, seen), (z, r, t), tangents)
    torch.testing.assert_close(result.u, u, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(result.target, wanted - (t - r)[:, None] * du_dt, rtol=1e-10, atol=1e-10)


def test_at_rest_the_velocity_of_a_row_is_guided_by_its_scale():
    """u(c, w) = w v(c) + (1 - w) v(null) is a fixed point, as Eq. 21 with kappa = 1 - 1/w has it."""
    own, null = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 0.25]).double()

    def field(z, r, t, labels):
        scale = labels[:, 1:]
        return torch.where(labels[:, :1] == 3, null, scale * own + (1 - scale) * null).expand_as(z)

    x = torch.zeros(7, 2).double()
    _, _, t, _ = (*batch((2,))[:2], batch((2,))[3], None)
    objective = ObjectiveConfig(guidance=GuidanceConfig(input=True), weight=WeightConfig(power=0))
    result = meanflow_loss(
        field, x, own.expand(7, 2), t, t, objective=objective, labels=LABELS, null_label=3, scales=SCALES
    )
    assert result.loss < 1e-28


@pytest.mark.parametrize("name", PRESETS)
def test_every_objective_takes_the_scale_along(name):
    """With w = 1 in every row, guidance as an input is no guidance."""
    net, shape = told_net()
    split = None if name in ("meanflow", "imf", "shortcut", "lsd") else torch.linspace(0.2, 0.8, 7).double()
    told = ObjectiveConfig(name=name, guidance=TOLD)
    *_, one = loss(net, shape, told, scales=torch.ones_like(SCALES), split=split)
    *_, plain = loss(net, shape, ObjectiveConfig(name=name), scales=None, split=split)
    torch.testing.assert_close(one.loss, plain.loss, rtol=1e-12, atol=0)
    *_, other = loss(net, shape, told, split=split)
    assert (other.target - plain.target)[~DROPPED].abs().max() > 1e-3
    torch.testing.assert_close(other.target[DROPPED], plain.target[DROPPED], rtol=1e-12, atol=1e-12)


def test_the_order_of_rows_does_not_matter_to_their_scales():
    net, shape = told_net()
    x, noise, r, t, wanted = loss(net, shape)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    found = meanflow_loss(
        net, x[order], noise[order], r[order], t[order], labels=LABELS[order], dropped=DROPPED[order], null_label=3,
        objective=ObjectiveConfig(guidance=TOLD, weight=WeightConfig(power=0)), scales=SCALES[order],
    )  # fmt: skip
    torch.testing.assert_close(found.target, wanted.target[order], rtol=1e-11, atol=1e-11)


def test_without_scales_or_labels_the_loss_says_what_is_missing():
    net, shape = told_net()
    for name in ("meanflow", "shortcut"):  # the one asks for it in its target, the other where r = t
        objective = ObjectiveConfig(name=name, guidance=TOLD)
        with pytest.raises(ValueError, match="needs the scale of each row"):
            loss(net, shape, objective, scales=None)
    packed = torch.cat([with_scale(LABELS, torch.ones(7)), torch.zeros(7, 5)], dim=1)  # with conditions, and no scale
    with pytest.raises(ValueError, match="needs the scale of each row"):
        loss(net, shape, scales=None, labels=packed)
    with pytest.raises(ValueError, match="`scales` needs `labels`"):
        loss(net, shape, labels=None, dropped=None)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_scales_have_the_density_that_is_asked_for(decay):
    config = GuidanceConfig(input=True, scale_max=4.0, scale_decay=decay)
    scales = draw_scales(200_000, config, generator=torch.Generator().manual_seed(0))
    assert scales.min() >= 1
    assert scales.max() <= 4
    below = {0.0: 1 / 3, 1.0: math.log(2) / math.log(4), 2.0: 0.5 / 0.75}[decay]  # the share of [1, 2]
    assert (scales < 2).double().mean().item() == pytest.approx(below, abs=4e-3)


def test_samples_are_drawn_at_the_scale_asked_for():
    net, shape = told_net()
    noise = torch.randn(7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = sample(net, noise, labels=LABELS, guidance=2.5)
    zero, one = torch.zeros(7).double(), torch.ones(7).double()
    with torch.no_grad():
        wanted = noise - net(noise, zero, one, with_scale(LABELS, 2.5 * one))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="scale of 1 or more"):
        sample(net, noise, labels=LABELS, guidance=0.5)


def test_samples_with_conditions_are_drawn_at_the_scale_asked_for_too():
    packed = torch.cat([with_scale(LABELS, torch.ones(7)), torch.arange(7 * 5).reshape(7, 5)], dim=1).float()
    seen = []

    def net(z, r, t, labels):
        seen.append(labels)
        return torch.zeros_like(z)

    sample(net, torch.randn(7, 3), labels=packed, guidance=2.5)
    assert torch.equal(seen[0][:, 1], torch.full((7,), 2.5))
    assert torch.equal(seen[0][:, [0, 2, 3, 4, 5, 6]], packed[:, [0, 2, 3, 4, 5, 6]])


def test_the_scale_of_samples_is_the_one_asked_for_or_the_first_that_was_judged():
    told = load_config({"objective.guidance.input": True, "evaluation.guidance": [1.5, 3.0]})
    assert guidance_scale(told, None) == 1.5
    assert guidance_scale(told, 7.0) == 7.0
    with pytest.raises(ConfigError, match=r"--guidance: must be 1 \(no guidance\) or more"):
        guidance_scale(told, 0.5)
    plain = load_config({})
    assert guidance_scale(plain, None) is None
    with pytest.raises(ConfigError, match="has its guidance built in"):
        guidance_scale(plain, 2.0)
