"""What every network owes the loss, checked on each of them with random weights."""

import math

import pytest
import torch

from meanflow_core.config import DiTConfig, MLPConfig, UNetConfig
from meanflow_core.errors import ConfigError
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import TimeEmbedder, randomise_

CASES = {
    "mlp on points": (MLPConfig(width=24, depth=2), (2,)),
    "mlp on images": (MLPConfig(width=24, depth=2), (1, 4, 6)),
    "dit": (DiTConfig(width=24, depth=2, heads=3, patch=2), (3, 8, 4)),
    "unet": (UNetConfig(channels=8, channel_mult=[1, 2], blocks=1, attention=[4], dropout=0.0), (2, 8, 12)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def make(case, num_classes=5, **changes):
    config, shape = case
    net = build_net(type(config)(**{**config.__dict__, **changes}), shape, num_classes)
    return randomise_(net.double(), seed=3), shape


def inputs(shape, rows=3):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
    r = torch.tensor([0.1, 0.55, 0.0][:rows], dtype=torch.float64)
    t = torch.tensor([0.7, 0.6, 1.0][:rows], dtype=torch.float64)
    return z, r, t


def test_the_answer_is_like_z_and_every_input_matters(case):
    net, shape = make(case)
    z, r, t = inputs(shape)
    labels = torch.tensor([4, 0, 2])
    u = net(z, r, t, labels)
    assert u.shape == z.shape
    assert u.dtype == z.dtype
    for other in (
        net(z + 0.1, r, t, labels),
        net(z, r + 0.05, t, labels),
        net(z, r, t - 0.05, labels),
        net(z, r, t, (labels + 1) % 5),
    ):
        assert (other - u).flatten(1).norm(dim=1).min() > 1e-6


def test_rows_do_not_see_each_other(case):
    net, shape = make(case)
    z, r, t = inputs(shape)
    labels = torch.tensor([4, 0, 2])
    alone = torch.cat([net(z[i : i + 1], r[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(z, r, t, labels), alone, rtol=1e-10, atol=1e-10)


def test_no_labels_means_the_null_label_which_is_no_class(case):
    net, shape = make(case)
    z, r, t = inputs(shape)
    null = net(z, r, t, None)
    torch.testing.assert_close(null, net(z, r, t, torch.full((3,), 5)), rtol=1e-12, atol=1e-12)
    for label in range(5):
        assert (net(z, r, t, torch.full((3,), label)) - null).norm() > 1e-6


def test_an_unlabelled_network_refuses_labels(case):
    net, shape = make(case, num_classes=None)
    z, r, t = inputs(shape)
    assert net(z, r, t, None).shape == z.shape
    with pytest.raises(ValueError, match="no labels"):
        net(z, r, t, torch.tensor([0, 1, 2]))


def test_a_new_network_answers_zero(case):
    config, shape = case
    z, r, t = (x.float() for x in inputs(shape))
    assert torch.equal(build_net(config, shape, 5)(z, r, t, None), torch.zeros_like(z))


@pytest.mark.parametrize("kind", ["t_dt", "t_r", "t_r_dt", "dt"])
def test_the_derivative_along_the_times_is_that_of_a_function_of_r_and_t(case, kind):
    net, shape = make(case, time_embedding=kind)
    z, r, t = inputs(shape)
    zero, one, step = torch.zeros_like(r), torch.ones_like(t), 1e-5
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, along_t = torch.func.jvp(lambda r, t: net(z, r, t, None), (r, t), (zero, one))
        _, along_both = torch.func.jvp(lambda r, t: net(z, r, t, None), (r, t), (one, one))
    difference = (net(z, r, t + step, None) - net(z, r, t - step, None)) / (2 * step)
    torch.testing.assert_close(along_t, difference, rtol=1e-6, atol=1e-6)
    assert along_t.norm() > 1e-3
    moves = along_both.norm() > 1e-3
    assert moves == (kind != "dt")  # a network of dt alone is blind to a shift of both times


def test_every_parameter_gets_a_gradient(case):
    net, shape = make(case)
    z, r, t = inputs(shape)
    net(z, r, t, torch.tensor([5, 0, 2])).square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


def test_dropout_acts_in_training_alone(case):
    net, shape = make(case, dropout=0.5)
    z, r, t = inputs(shape)
    assert not torch.equal(net.train()(z, r, t), net(z, r, t))
    assert torch.equal(net.eval()(z, r, t), net(z, r, t))


def test_the_same_seed_builds_the_same_network(case):
    config, shape = case
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        states.append(build_net(config, shape, 5).state_dict())
    assert all(torch.equal(a, states[1][name]) for name, a in states[0].items())


def test_half_precision_keeps_the_times_exact(case):
    config, shape = case
    net = randomise_(build_net(config, shape, 5), seed=3)
    z, r, t = (x.float() for x in inputs(shape))
    exact = net(z, r, t, None)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(z, r, t, None).float()
    assert (rough - exact).norm() / exact.norm() < 0.05


def test_times_are_not_multiplied_by_a_thousand():
    embedder = TimeEmbedder(8, "t_r")
    assert embedder.frequency.max() == 1.0
    assert embedder.frequency.dtype == torch.float32


def test_sinusoids_and_sum_by_hand():
    net = TimeEmbedder(3, "t_dt", frequencies=4).double()
    randomise_(net, seed=2)
    r, t = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    wave = [torch.tensor([[s.cos(), (s / 100).cos(), s.sin(), (s / 100).sin()]]) for s in (t[0], t[0] - r[0])]
    expected = net.mlps[0](wave[0]) + net.mlps[1](wave[1])
    torch.testing.assert_close(net(r, t), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "shape", "key"),
    [
        (DiTConfig(patch=3, width=12, heads=2), (1, 8, 8), "model.patch"),
        (DiTConfig(), (2,), "model.name"),
        (UNetConfig(), (3, 6, 8), "model.channel_mult"),
        (UNetConfig(), (2,), "model.name"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(config, shape, key):
    with pytest.raises(ConfigError) as caught:
        build_net(config, shape, None)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("count", [8, 256])
def test_the_frequencies_of_the_times_are_those_of_float64_on_every_processor(count):
    found = TimeEmbedder(4, "t_dt", frequencies=count).frequency
    exact = [math.exp(-math.log(10_000) * 2 * k / count) for k in range(count // 2)]
    assert found.dtype == torch.float32
    assert found.tolist() == torch.tensor(exact, dtype=torch.float64).float().tolist()
