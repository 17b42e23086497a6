import pytest
import torch

from meanflow_core.derivative import predict
from meanflow_core.derivative.methods import TANGENTS
from tests.meanflow_core.small_nets import REAL, SHAPES, batch, real_net, small_net

ROWS = 3
EXACT = ["dual", "jvp"]


def gaussian_field(z, r, t, labels=None, mean=0.7, std=0.4):
    """The exact average velocity when the data is N(mean, std^2) in each entry.

    The flow is z_t = (1 - t) mean + sigma_t xi with sigma_t^2 = (1 - t)^2 std^2 + t^2 and xi fixed along a path, so
    u = (z_t - z_r) / (t - r); sigma_t - sigma_r is written as a difference of squares, which is exact at r = t too.
    """
    t, r = t.unsqueeze(-1), r.unsqueeze(-1)
    sigma_t = torch.sqrt((1 - t) ** 2 * std**2 + t * t)
    sigma_r = torch.sqrt((1 - r) ** 2 * std**2 + r * r)
    slope = ((t + r) * (1 + std**2) - 2 * std**2) / (sigma_t * (sigma_t + sigma_r))
    return (z - (1 - t) * mean) * slope - mean


def marginal_velocity(z, t):
    return gaussian_field(z, t, t)


@pytest.mark.parametrize(("method", "tolerance"), [("dual", 1e-10), ("jvp", 1e-10), ("finite_difference", 1e-8)])
def test_the_gaussian_flow_satisfies_the_meanflow_identity(method, tolerance):
    z, _, r, t = batch((3,), rows=7)
    velocity = marginal_velocity(z, t)
    u, du_dt = predict(gaussian_field, z, r, t, None, direction=velocity, method=method)
    torch.testing.assert_close(u, velocity - (t - r)[:, None] * du_dt, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tangent", [name for name in TANGENTS if name != "v01"])
@pytest.mark.parametrize("method", EXACT)
def test_with_another_tangent_the_identity_fails(method, tangent):
    z, _, r, t = batch((3,), rows=7)
    velocity = marginal_velocity(z, t)
    u, du_dt = predict(gaussian_field, z, r, t, None, direction=velocity, method=method, tangent=tangent)
    gap = (u - velocity + (t - r)[:, None] * du_dt).abs().amax(1)
    assert gap.min() > 1e-3


@pytest.mark.parametrize("tangent", TANGENTS)
@pytest.mark.parametrize("name", SHAPES)
def test_all_ways_agree_on_small_networks(name, tangent):
    check_agreement(small_net(name), SHAPES[name], None, tangent)


@pytest.mark.parametrize(
    ("name", "dropout"), [*((name, 0.0) for name in REAL), ("mlp", 0.3), ("dit", 0.3), ("unet", 0.2)]
)
def test_all_ways_agree_on_every_network(name, dropout):
    net, shape = real_net(name, dropout=dropout)
    check_agreement(net, shape, torch.tensor([0, 3, 2, 1, 1, 0, 3]), "v01")


def check_agreement(net, shape, labels, tangent):
    z, direction, r, t = batch(shape)
    results = {}
    for method in ("dual", "jvp", "finite_difference"):
        torch.manual_seed(2)  # of the dropout masks
        net.zero_grad()
        u, du_dt = predict(net, z, r, t, labels, direction=direction[:ROWS], method=method, tangent=tangent)
        assert not du_dt.requires_grad
        u.square().sum().backward()
        results[method] = u.detach(), du_dt, [p.grad.clone() for p in net.parameters() if p.grad is not None]
    (u, du_dt, gradients), (u2, du_dt2, gradients2) = results["dual"], results["jvp"]
    assert du_dt.abs().max() > 0.1
    torch.testing.assert_close(u, u2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(du_dt, du_dt2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, gradients2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(results["finite_difference"][1], du_dt, rtol=1e-6, atol=1e-6 * du_dt.abs().max().item())


@pytest.mark.parametrize("method", [*EXACT, "finite_difference"])
def test_without_rows_to_differentiate_the_network_is_called_once_and_as_it_is(method):
    net = small_net("mlp")
    z, _, _, t = batch((3,))
    u, du_dt = predict(net, z, t, t, None, direction=z[:0], method=method)
    assert net.calls == [(7, True, True, None)]
    assert torch.equal(u, net(z, t, t))
    assert du_dt.shape == (0, 3)


def test_the_finite_difference_converges_at_second_order():
    """Its error is that of a central difference of the step it takes: h = eps^(1/3)."""
    cubic = lambda z, r, t, labels: (t**3).unsqueeze(-1) * torch.ones_like(z)  # noqa: E731
    z, _, r, t = batch((3,), rows=7)
    _, du_dt = predict(cubic, z, r, t, None, direction=torch.zeros_like(z), method="finite_difference")
    step = torch.finfo(torch.float64).eps ** (1 / 3)
    error = (du_dt - 3 * (t**2)[:, None]).abs().max()
    assert step**2 / 2 < error + 1e-10 < 5 * step**2 + 2e-10


def test_a_network_that_ignores_its_inputs_has_no_derivative():
    constant = lambda z, r, t, labels: torch.ones(7, 3).double()  # noqa: E731
    z, direction, r, t = batch((3,))
    _, du_dt = predict(constant, z, r, t, None, direction=direction[:ROWS], method="dual")
    assert torch.equal(du_dt, torch.zeros(ROWS, 3).double())


@pytest.mark.parametrize("method", [*EXACT, "finite_difference"])
def test_under_bfloat16_autocast_the_derivative_is_float32_and_close(method):
    net, shape = real_net("dit")
    net = net.float()
    z, direction, r, t = batch(shape, dtype=torch.float32)
    labels = torch.zeros(7, dtype=torch.int64)
    _, exact = predict(net, z, r, t, labels, direction=direction[:ROWS], method="jvp")
    with torch.autocast("cpu", torch.bfloat16):
        _, du_dt = predict(net, z, r, t, labels, direction=direction[:ROWS], method=method)
    assert du_dt.dtype == torch.float32
    assert (du_dt - exact).norm() / exact.norm() < (0.05 if method in EXACT else 1e-2)
