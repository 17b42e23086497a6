from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.config import GuidanceConfig, ObjectiveConfig, TimeConfig, WeightConfig
from meanflow_core.flow.times import sample_dropped, sample_times
from meanflow_core.objectives.loss import meanflow_loss
from tests.meanflow_core.derivative.test_derivative import gaussian_field, marginal_velocity
from tests.meanflow_core.small_nets import REAL, SHAPES, batch, real_net, small_net

EXACT = ["dual", "jvp"]
ROWS = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
DROPPED = torch.tensor([False, True, False, False, False, True, False])
GUIDED = GuidanceConfig(omega=1.5, kappa=0.4, start=0.2, end=0.8)


def objective(**kwargs):
    return ObjectiveConfig(**{"weight": WeightConfig(power=0), **kwargs})


@pytest.mark.parametrize("method", EXACT)
def test_the_loss_of_the_exact_field_of_gaussian_data_is_zero(method):
    z, _, r, t = batch((3,))
    velocity = marginal_velocity(z, t)  # x and noise chosen so that the conditional velocity is the marginal one
    x, noise = z - t[:, None] * velocity, z + (1 - t)[:, None] * velocity
    result = meanflow_loss(gaussian_field, x, noise, r, t, objective=objective(derivative=method))
    assert result.loss < 1e-20
    torch.testing.assert_close(result.u, gaussian_field(z, r, t), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.target, result.u, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", EXACT)
def test_the_loss_of_the_exact_field_of_point_data_is_zero(method):
    centre = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    field = lambda z, r, t, labels: (z - centre) / t.unsqueeze(-1)  # noqa: E731
    _, noise, r, t = batch((3,))
    result = meanflow_loss(field, centre.expand(7, 3), noise, r, t, objective=objective(derivative=method))
    assert result.loss < 1e-20
    torch.testing.assert_close(result.du_dt, torch.zeros(7, 3).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("tangent", ["v00", "v10", "v11"])
def test_with_another_tangent_the_exact_field_has_a_loss(tangent):
    z, _, r, t = batch((3,))
    velocity = marginal_velocity(z, t)
    x, noise = z - t[:, None] * velocity, z + (1 - t)[:, None] * velocity
    result = meanflow_loss(gaussian_field, x, noise, r, t, objective=objective(tangent=tangent))
    assert result.squared_error[:ROWS].min() > 1e-5
    assert result.squared_error[ROWS:].max() < 1e-20


@pytest.mark.parametrize("name", SHAPES)
def test_with_r_equal_to_t_it_is_flow_matching_bit_for_bit(name):
    net = small_net(name)
    x, noise, _, t = batch(SHAPES[name], rows=0)
    result = meanflow_loss(net, x, noise, t, t, objective=objective())
    gradients = torch.autograd.grad(result.loss, list(net.parameters()), allow_unused=True)
    times = t.reshape(-1, *[1] * len(SHAPES[name]))
    error = (net((1 - times) * x + times * noise, t, t) - (noise - x)).square().flatten(1).sum(1)
    expected = torch.autograd.grad(error.mean(), list(net.parameters()), allow_unused=True)
    assert torch.equal(result.loss, error.mean())
    assert torch.equal(result.du_dt, torch.zeros_like(x))
    for got, wanted in zip(gradients, expected, strict=True):
        assert (got is None and wanted is None) or torch.equal(got, wanted)


@pytest.mark.parametrize("method", EXACT)
def test_an_infinite_derivative_on_the_rows_with_r_equal_to_t_is_never_met(method):
    """u = z sqrt(t - r) has none at r = t; 0 times it would be nan."""
    field = lambda z, r, t, labels: z * torch.sqrt(t - r).unsqueeze(-1)  # noqa: E731
    x, noise, r, t = batch((3,))
    result = meanflow_loss(field, x, noise, r, t, objective=objective(derivative=method))
    assert torch.isfinite(result.loss)
    assert torch.equal(result.du_dt[ROWS:], torch.zeros(4, 3).double())
    assert result.du_dt[:ROWS].abs().min() > 0


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_gradient_is_that_of_regression_on_a_constant_target_with_a_constant_weight(power, guidance):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    chosen = objective(weight=WeightConfig(power=power), guidance=guidance)
    result = meanflow_loss(net, x, noise, r, t, labels=LABELS, dropped=DROPPED, null_label=3, objective=chosen)
    gradients = torch.autograd.grad(result.loss, list(net.parameters()))
    seen = torch.where(DROPPED, 3, LABELS)
    z = (1 - t[:, None]) * x + t[:, None] * noise
    error = (net(z, r, t, seen) - result.target).square().sum(1)
    weight = 1 / (error.detach() + chosen.weight.eps) ** power
    expected = torch.autograd.grad((weight * error).mean(), list(net.parameters()))
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.weighted, (weight * error).detach(), rtol=1e-12, atol=1e-12)
    assert [name for name, value in vars(result).items() if value.requires_grad] == ["loss"]


def by_hand(net, x, noise, r, t, guidance, power):
    """Algorithm 1 with Eq. 21, one term after the other, by torch.func.jvp over the whole batch."""
    t_, r_ = (time.reshape(-1, *[1] * (x.dim() - 1)) for time in (t, r))
    z, v = (1 - t_) * x + t_ * noise, noise - x
    seen = torch.where(DROPPED, 3, LABELS)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        at_label, at_null = net(z, t, t, LABELS), net(z, t, t, torch.full_like(LABELS, 3))
        omega, kappa = guidance.effective_omega, guidance.kappa
        mixed = omega * v + kappa * at_label + (1 - omega - kappa) * at_null
        inside = (t_ >= guidance.start) & (t_ <= guidance.end) & ~DROPPED.reshape(t_.shape)
        v = torch.where(inside, mixed, v)
        tangents = (v, torch.zeros_like(r), torch.ones_like(t))
        _, du_dt = torch.func.jvp(lambda z, r, t: net(z, r, t, seen), (z, r, t), tangents)
        target = v - (t_ - r_) * du_dt
    error = (net(z, r, t, seen) - target).square().flatten(1).sum(1)
    weight = 1 / (error.detach() + 1e-3) ** power
    return v, du_dt, target, (weight * error).mean()


GUIDANCE = {"no": GuidanceConfig(), "omega": GuidanceConfig(scale=2.0), "both": GUIDED}


@pytest.mark.parametrize(("guidance", "method"), [("no", "dual"), ("omega", "dual"), ("both", "dual"), ("both", "jvp")])
@pytest.mark.parametrize("name", REAL)
def test_it_is_algorithm_1_on_every_network(name, guidance, method):
    net, shape = real_net(name)
    x, noise, r, t = batch(shape)
    power = 0.75
    chosen = ObjectiveConfig(weight=WeightConfig(power=power), guidance=GUIDANCE[guidance], derivative=method)
    result = meanflow_loss(net, x, noise, r, t, labels=LABELS, dropped=DROPPED, null_label=3, objective=chosen)
    velocity, du_dt, target, loss = by_hand(net, x, noise, r, t, chosen.guidance, power)
    assert du_dt[:ROWS].abs().max() > 0.1
    torch.testing.assert_close(result.velocity, velocity, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.du_dt[:ROWS], du_dt[:ROWS], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.target, target, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.loss, loss, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(one, list(net.parameters())) for one in (result.loss, loss)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * other.abs().max().item())


def test_no_guidance_changes_no_bit_and_costs_no_pass():
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    results = []
    for guidance in (GuidanceConfig(), GuidanceConfig(), GuidanceConfig(scale=1.0, start=0.3, end=0.6)):
        net.calls.clear()  # of the check at first use
        results.append(
            meanflow_loss(
                net,
                x,
                noise,
                r,
                t,
                labels=LABELS,
                dropped=DROPPED,
                null_label=3,
                objective=objective(derivative="dual", guidance=guidance),
            )
        )
    assert len(net.calls) == 1
    for one, other in zip(vars(results[1]).values(), vars(results[2]).values(), strict=True):
        assert torch.equal(one, other)


def test_dropped_rows_see_the_null_label_and_the_plain_velocity():
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    chosen = objective(guidance=GUIDED, derivative="dual")
    result = meanflow_loss(net, x, noise, r, t, labels=LABELS, dropped=DROPPED, null_label=3, objective=chosen)
    assert torch.equal(result.velocity[DROPPED], (noise - x)[DROPPED])
    plain = meanflow_loss(net, x, noise, r, t, labels=torch.full_like(LABELS, 3), objective=objective())
    torch.testing.assert_close(result.u[DROPPED], plain.u[DROPPED], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.target[DROPPED], plain.target[DROPPED], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        result.u[~DROPPED], net((1 - t[:, None]) * x + t[:, None] * noise, r, t, LABELS)[~DROPPED]
    )


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["plain", "guided"])
def test_the_order_of_rows_does_not_matter_and_the_result_keeps_it(guidance):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    chosen = ObjectiveConfig(guidance=guidance)
    options = {"null_label": 3, "objective": chosen}
    static = meanflow_loss(net, x, noise, r, t, labels=LABELS, dropped=DROPPED, rows=ROWS, drops=2, **options)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    shuffled = meanflow_loss(
        net, x[order], noise[order], r[order], t[order], labels=LABELS[order], dropped=DROPPED[order], **options
    )
    torch.testing.assert_close(static.loss, shuffled.loss, rtol=1e-12, atol=0)
    for name in ("weighted", "squared_error", "u", "target", "velocity", "du_dt"):
        torch.testing.assert_close(getattr(static, name)[order], getattr(shuffled, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", [*EXACT, "finite_difference"])
def test_equal_inputs_give_equal_outputs_with_dropout_too(method):
    results = []
    for _ in range(2):
        net = small_net("mlp", dropout=0.4).train()
        torch.manual_seed(3)
        x, noise, r, t = batch((3,))
        results.append(meanflow_loss(net, x, noise, r, t, objective=objective(derivative=method)))
    assert torch.equal(results[0].loss, results[1].loss)
    assert torch.equal(results[0].du_dt, results[1].du_dt)


def test_without_labels_rows_cannot_be_dropped():
    x, noise, r, t = batch((3,))
    with pytest.raises(ValueError, match="`dropped` needs"):
        meanflow_loss(small_net("mlp"), x, noise, r, t, dropped=DROPPED, objective=objective())


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["plain", "guided"])
def test_under_bfloat16_autocast_times_target_and_loss_are_float32_and_every_weight_gets_its_gradient(guidance):
    """A weight cast to bfloat16 in the pass without gradient must not be used again in the one with it."""
    net = small_net("mlp", classes=3).float()
    x, noise, r, t = (value.float() for value in batch((3,)))
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = meanflow_loss(
                net,
                x,
                noise,
                r,
                t,
                labels=LABELS,
                dropped=DROPPED,
                null_label=3,
                objective=objective(guidance=guidance),
            )
        assert {value.dtype for value in vars(result).values()} == {torch.float32}
        gradients.append(torch.autograd.grad(result.loss, list(net.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.1 * exact.norm()


def test_a_batch_as_the_trainer_makes_it():
    config = ObjectiveConfig(time=TimeConfig(ratio=0.5), guidance=GuidanceConfig(scale=2.0, kappa=0.5))
    generator = torch.Generator().manual_seed(0)
    r, t = sample_times(8, config.time, generator=generator)
    dropped = sample_dropped(8, 0.25, generator=generator)
    x, noise = torch.randn(2, 8, 3, generator=generator)
    net = small_net("mlp", classes=3).float()
    arguments = {"labels": torch.arange(8) % 3, "dropped": dropped, "null_label": 3, "objective": config}
    static = meanflow_loss(net, x, noise, r, t, **arguments, rows=4, drops=2)
    found = meanflow_loss(net, x, noise, r, t, **arguments)
    torch.testing.assert_close(static.loss, found.loss, rtol=1e-6, atol=0)
    other = meanflow_loss(net, x, noise, r, t, **{**arguments, "objective": replace(config, derivative="jvp")})
    torch.testing.assert_close(static.loss, other.loss, rtol=1e-5, atol=0)
