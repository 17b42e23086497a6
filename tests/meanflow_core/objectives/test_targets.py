"""Every objective against closed forms, in float64."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from meanflow_core.config import PRESETS, GuidanceConfig, ObjectiveConfig, SplitConfig, WeightConfig
from meanflow_core.objectives import meanflow_loss
from tests.meanflow_core.derivative.test_derivative import gaussian_field, marginal_velocity
from tests.meanflow_core.small_nets import REAL, batch, real_net, small_net

ROWS = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
DROPPED = torch.tensor([False, True, False, False, False, True, False])
GUIDED = GuidanceConfig(omega=1.5, kappa=0.4, start=0.2, end=0.8)
SPLITS = torch.tensor([0.3, 0.55, 0.8, 0.1, 0.2, 0.4, 0.9], dtype=torch.float64)
OWN = [name for name, preset in PRESETS.items() if preset.leg == "own"]


def objective(name, **given):
    return ObjectiveConfig(**{"name": name, "weight": WeightConfig(power=0), **given})


def split_of(name):
    """A split that the objective has at some time: one for each row where it is neither 0 nor 1."""
    return None if name in ("meanflow", "imf", "shortcut", "lsd") else SPLITS


def gap(r, t):
    return (t - r)[:, None]


def on_the_exact_path(size=3, rows=ROWS):
    """x, noise, r, t whose conditional velocity is the marginal one of Gaussian data."""
    z, _, r, t = batch((size,), rows=rows)
    velocity = marginal_velocity(z, t)
    return z - t[:, None] * velocity, z + (1 - t)[:, None] * velocity, r, t


@pytest.mark.parametrize("name", ["meanflow", "imf", "shortcut", "split", "lsd"])
@pytest.mark.parametrize("split", [0.1, 0.5, 0.9])
def test_the_exact_field_of_gaussian_data_is_at_rest(name, split):
    x, noise, r, t = on_the_exact_path()
    given = split if name == "split" else None
    result = meanflow_loss(gaussian_field, x, noise, r, t, objective=objective(name), split=given)
    assert result.loss < 1e-22
    torch.testing.assert_close(result.target, result.u, rtol=0, atol=1e-10)
    moved = lambda z, r, t, labels: gaussian_field(z, r, t) + 0.1 * gap(r, t) ** 2  # noqa: E731
    assert meanflow_loss(moved, x, noise, r, t, objective=objective(name), split=given).loss > 1e-6


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("name", PRESETS)
def test_with_r_equal_to_t_every_objective_is_flow_matching(name, guidance):
    net = small_net("mlp", classes=3)
    x, noise, _, t = batch((3,), rows=0)
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3}
    base = meanflow_loss(net, x, noise, t, t, objective=objective("meanflow", guidance=guidance), **options)
    net.calls.clear()
    result = meanflow_loss(
        net, x, noise, t, t, objective=objective(name, guidance=guidance), split=split_of(name), **options
    )
    assert torch.equal(result.target, base.velocity)
    assert torch.equal(result.loss, base.loss)
    assert len(net.calls) == (1 if guidance == GuidanceConfig() else 2)


def meanflow_residual(net, x, noise, r, t, **given):
    result = meanflow_loss(net, x, noise, r, t, objective=objective("meanflow", **given))
    return (result.u - result.target)[:ROWS]


def quotient(result, split):
    return (result.u - result.target)[:ROWS] / split


@pytest.mark.parametrize("direction", [0.0, 0.6])
def test_a_small_split_on_the_data_is_the_derivative_with_an_error_of_first_order(direction):
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    wanted = meanflow_residual(net, x, noise, r, t, direction=direction)
    errors = []
    for split in (1e-2, 1e-3, 1e-4):
        chosen = objective("soflow", direction=direction)
        result = meanflow_loss(net, x, noise, r, t, objective=chosen, split=split)
        errors.append((quotient(result, split) - wanted).abs().max().item())
        torch.testing.assert_close(result.squared_error[:ROWS], quotient(result, split).square().sum(1))
    assert errors[0] > 1e-4
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([10, 10], rel=0.05)


def test_a_small_split_with_dropout_keeps_one_mask_on_both_ends():
    residuals = []
    for name, split in (("meanflow", None), ("soflow", 1e-5)):
        net = small_net("mlp", dropout=0.4).train()
        torch.manual_seed(3)
        x, noise, r, t = batch((3,))
        result = meanflow_loss(net, x, noise, r, t, objective=objective(name, derivative="jvp"), split=split)
        residuals.append(quotient(result, split or 1.0))
    torch.testing.assert_close(*residuals, rtol=1e-2, atol=1e-3)


def test_a_split_near_the_early_end_of_the_own_path_is_the_derivative_at_r():
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    result = meanflow_loss(net, x, noise, r, t, objective=objective("lsd"))
    wanted = (result.u - result.target)[:ROWS]
    errors = []
    for share in (1e-2, 1e-3, 1e-4):
        near = meanflow_loss(net, x, noise, r, t, objective=objective("split"), split=1 - share)
        errors.append((quotient(near, share) - wanted).abs().max().item())
    assert errors[0] > 1e-4
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([10, 10], rel=0.05)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("method", ["dual", "jvp"])
def test_the_derivative_at_r_is_that_of_torch_on_every_network(name, method):
    net, shape = real_net(name)
    x, noise, r, t = batch(shape)
    chosen = objective("lsd", derivative=method)
    result = meanflow_loss(net, x, noise, r, t, labels=LABELS, null_label=3, objective=chosen)
    u = lambda r: net(z, r, t, LABELS)  # noqa: E731
    t_ = t.reshape(-1, *[1] * len(shape))
    z, h = (1 - t_) * x + t_ * noise, (t - r).reshape(t_.shape)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value, du_dr = torch.func.jvp(u, (r,), (torch.ones_like(r),))
        target = net(z - h * value, r, r, LABELS) + h * du_dr
    torch.testing.assert_close(result.target[:ROWS], target[:ROWS], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result.du_dt[:ROWS], du_dr[:ROWS], rtol=1e-9, atol=1e-9)
    assert du_dr.abs().max() > 0.01


@pytest.mark.parametrize("name", ["soflow", "alphaflow", "consistency", "split"])
def test_both_legs_are_followed_from_row_to_row_with_each_rows_own_split(name):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3}
    result = meanflow_loss(net, x, noise, r, t, objective=objective(name), split=SPLITS, **options)
    seen, a = torch.where(DROPPED, 3, LABELS), SPLITS[:, None]
    s = t - SPLITS * (t - r)
    z = (1 - t[:, None]) * x + t[:, None] * noise
    with torch.no_grad():
        leg = net(z, s, t, seen) if name == "split" else noise - x
        target = a * leg + (1 - a) * net(z - a * gap(r, t) * leg, r, s, seen)
    torch.testing.assert_close(result.target[:ROWS], target[:ROWS], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.diagnostics[:, 0], torch.where(torch.arange(7) < ROWS, SPLITS, 0.0))
    divided = SPLITS if name != "split" else torch.ones(7)
    error = (result.u - target).square().sum(1) / divided**2
    torch.testing.assert_close(result.squared_error[:ROWS], error[:ROWS], rtol=1e-12, atol=0)
    torch.testing.assert_close(result.weighted[:ROWS], (divided * error)[:ROWS], rtol=1e-12, atol=0)
    torch.testing.assert_close(result.weighted[ROWS:], result.squared_error[ROWS:], rtol=0, atol=0)


def test_shortcut_is_the_mean_of_two_halves():
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    result = meanflow_loss(net, x, noise, r, t, objective=objective("shortcut"))
    half, z = (r + t) / 2, (1 - t[:, None]) * x + t[:, None] * noise
    with torch.no_grad():
        first = net(z, half, t)
        second = net(z - gap(half, t) * first, r, half)
    torch.testing.assert_close(result.target[:ROWS], ((first + second) / 2)[:ROWS], rtol=1e-12, atol=1e-12)
    same = meanflow_loss(net, x, noise, r, t, objective=objective("split"), split=0.5)
    assert torch.equal(same.loss, result.loss)


@pytest.mark.parametrize("name", ["shortcut", "lsd"])
def test_a_teacher_makes_the_targets_of_the_own_path(name):
    net, teacher, (x, noise, r, t) = small_net("mlp"), small_net("mlp"), batch((3,))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(0.7)
    result = meanflow_loss(net, x, noise, r, t, objective=objective(name), teacher=teacher)
    z = (1 - t[:, None]) * x + t[:, None] * noise
    with torch.no_grad():
        if name == "shortcut":
            half = (r + t) / 2
            first = teacher(z, half, t)
            target = (first + teacher(z - gap(half, t) * first, r, half)) / 2
        else:
            du_dr = torch.func.jvp(lambda r: net(z, r, t), (r,), (torch.ones_like(r),))[1]
            target = teacher(z - gap(r, t) * net(z, r, t), r, r) + gap(r, t) * du_dr
    torch.testing.assert_close(result.target[:ROWS], target[:ROWS], rtol=1e-11, atol=1e-11)
    untaught = meanflow_loss(net, x, noise, r, t, objective=objective(name))
    assert (untaught.target - result.target)[:ROWS].abs().max() > 1e-3


def test_imf_along_the_datas_direction_is_meanflow_bit_for_bit():
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3}
    same = {"guidance": GUIDED, "weight": WeightConfig(power=1.0, eps=1e-3)}
    one = meanflow_loss(net, x, noise, r, t, objective=ObjectiveConfig(name="meanflow", **same), **options)
    other = meanflow_loss(net, x, noise, r, t, objective=ObjectiveConfig(name="imf", direction=0.0, **same), **options)
    own = meanflow_loss(net, x, noise, r, t, objective=ObjectiveConfig(name="imf", **same), **options)
    for (name, a), b in zip(vars(one).items(), vars(other).values(), strict=True):
        assert torch.equal(a, b), name
    assert (own.du_dt - one.du_dt).abs().max() > 0.01


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_imf_follows_the_networks_velocity_for_the_label_the_row_is_trained_on(share):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3}
    chosen = objective("imf", direction=share, guidance=GUIDED)
    result = meanflow_loss(net, x, noise, r, t, objective=chosen, **options)
    seen = torch.where(DROPPED, 3, LABELS)
    z = (1 - t[:, None]) * x + t[:, None] * noise
    with torch.no_grad():
        direction = (1 - share) * result.velocity + share * net(z, t, t, seen)
        tangents = (direction, torch.zeros_like(r), torch.ones_like(t))
        du_dt = torch.func.jvp(lambda z, r, t: net(z, r, t, seen), (z, r, t), tangents)[1]
    torch.testing.assert_close(result.du_dt[:ROWS], du_dt[:ROWS], rtol=1e-11, atol=1e-11)
    target = result.velocity - gap(r, t) * du_dt
    torch.testing.assert_close(result.target[:ROWS], target[:ROWS], rtol=1e-11, atol=1e-11)


def test_a_split_of_one_on_the_data_regresses_on_the_velocity_and_asks_the_network_nothing():
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    result = meanflow_loss(net, x, noise, r, t, objective=objective("alphaflow"), split=1.0, labels=LABELS)
    assert torch.equal(result.target, noise - x)
    assert len(net.calls) == 1


def slope(t, std):
    """The marginal velocity of N(0, std^2) is slope * z."""
    return (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)


def shrunk(t, split, std):
    """The one-step map of the field that a constant split settles at: z_0 = shrunk * z_t."""
    return math.prod(1 - split * tau * slope(tau, std) for tau in (t * (1 - split) ** k for k in range(20_000)))


SHRINKS = {0.5: 0.365, 0.25: 0.440, 0.1: 0.477, 0.05: 0.489, 0.02: 0.4955, 0.01: 0.4978, 0.005: 0.4989, 0.002: 0.4996}


def test_a_constant_split_on_the_data_shrinks_samples_by_the_known_factor():
    assert {a: shrunk(1.0, a, 0.5) for a in SHRINKS} == pytest.approx(SHRINKS, abs=6e-4)


@pytest.mark.parametrize("split", [0.5, 0.1])
@pytest.mark.parametrize("t", [1.0, 0.7])
def test_the_shrinking_field_is_where_a_constant_split_rests(split, t):
    """The mean target given z is the field itself; exact, because all moments are those of a quadrature."""
    std, field = 0.5, lambda time: (1 - shrunk(time, split, 0.5)) / time
    slopes = {round(time, 9): field(time) for time in (t, t * (1 - split))}

    def net(z, r, t, labels=None):
        return z * torch.tensor([slopes[round(time, 9)] for time in t.tolist()], dtype=z.dtype)[:, None]

    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x, noise = (torch.tensor(grid).reshape(-1, 1) for grid in np.meshgrid(std * nodes, nodes))
    weight = torch.tensor(np.outer(weights, weights)).reshape(-1, 1)
    times = torch.full((len(x),), t, dtype=torch.float64)
    result = meanflow_loss(net, x, noise, 0 * times, times, objective=objective("consistency"), split=split)
    z = (1 - t) * x + t * noise
    best = (weight * z * result.target).sum() / (weight * z * z).sum()
    assert best.item() == pytest.approx(slopes[round(t, 9)], rel=1e-9)


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("name", PRESETS)
def test_the_gradient_is_that_of_finite_differences_with_target_and_weight_frozen(name, power, guidance):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3, "split": split_of(name)}
    chosen = ObjectiveConfig(name=name, weight=WeightConfig(power=power, eps=0.1), guidance=guidance, gap_weight=0.5)
    result = meanflow_loss(net, x, noise, r, t, objective=chosen, **options)
    gradients = torch.autograd.grad(result.loss, list(net.parameters()))
    generator = torch.Generator().manual_seed(2)
    way = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]
    seen, z = torch.where(DROPPED, 3, LABELS), (1 - t[:, None]) * x + t[:, None] * noise
    a = torch.where(torch.arange(7) < ROWS, SPLITS, 1.0) if split_of(name) is not None and name not in OWN else 1.0

    def frozen(step):
        with torch.no_grad():
            for parameter, one in zip(net.parameters(), way, strict=True):
                parameter.add_(step * one)
            error = (net(z, r, t, seen) - result.target).square().sum(1) / a**2
            for parameter, one in zip(net.parameters(), way, strict=True):
                parameter.sub_(step * one)
            return (result.weight * a * error).mean()

    numeric = (frozen(1e-5) - frozen(-1e-5)) / 2e-5
    assert frozen(0.0).item() == pytest.approx(result.loss.item(), rel=1e-12)
    exact = sum((g * one).sum() for g, one in zip(gradients, way, strict=True))
    assert exact.item() == pytest.approx(numeric.item(), rel=1e-6, abs=1e-9)
    assert [name for name, value in vars(result).items() if value.requires_grad] == ["loss"]


PASSES = {
    ("meanflow", None): [7],
    ("imf", None): [3, 7],
    ("alphaflow", 0.0): [7],
    ("alphaflow", 1.0): [7],
    ("alphaflow", 0.5): [7, 3],
    ("soflow", 0.1): [7, 3],
    ("consistency", 0.1): [7, 3],
    ("shortcut", None): [7, 3, 3],
    ("split", 0.3): [7, 3, 3],
    ("lsd", None): [7, 3],
}


@pytest.mark.parametrize(("name", "split"), PASSES)
def test_an_objective_pays_for_its_own_passes_alone(name, split):
    """Rows of each call of the network; guidance asks for every guided row, but not where the target holds no v~."""
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": 3, "split": split, "rows": ROWS}
    for guidance in (GuidanceConfig(), GuidanceConfig(scale=2.0)):
        chosen = objective(name, guidance=guidance, derivative="dual")
        meanflow_loss(net, x, noise, r, t, objective=chosen, **options)  # with the check at first use
        net.calls.clear()
        meanflow_loss(net, x, noise, r, t, objective=chosen, **options)
        guided = [] if guidance == GuidanceConfig() else [3 if name in OWN else 5]  # 2 of the 7 are dropped, 1 late
        assert [rows for rows, *_ in net.calls] == guided + PASSES[name, split]
        with_gradient = [rows for rows, _, gradient, _ in net.calls if gradient]
        assert with_gradient == [7]


@pytest.mark.parametrize("name", PRESETS)
def test_the_order_of_rows_does_not_matter_to_any_objective(name):
    net = small_net("mlp", classes=3)
    x, noise, r, t = batch((3,))
    split = split_of(name)
    options = {"null_label": 3, "objective": objective(name, guidance=GUIDED)}
    static = meanflow_loss(
        net, x, noise, r, t, labels=LABELS, dropped=DROPPED, split=split, rows=ROWS, drops=2, **options
    )
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    shuffled = meanflow_loss(
        net, x[order], noise[order], r[order], t[order], labels=LABELS[order], dropped=DROPPED[order],
        split=None if split is None else split[order], **options,
    )  # fmt: skip
    torch.testing.assert_close(static.loss, shuffled.loss, rtol=1e-12, atol=0)
    for field in ("weighted", "squared_error", "u", "target", "velocity", "du_dt", "diagnostics"):
        torch.testing.assert_close(getattr(static, field)[order], getattr(shuffled, field), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PRESETS)
def test_under_bfloat16_autocast_every_weight_gets_its_gradient(name):
    net = small_net("mlp", classes=3).float()
    x, noise, r, t = (value.float() for value in batch((3,)))
    split = None if split_of(name) is None else SPLITS.float()
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = meanflow_loss(
                net, x, noise, r, t, labels=LABELS, dropped=DROPPED, null_label=3,
                objective=objective(name, guidance=GUIDED), split=split,
            )  # fmt: skip
        assert {value.dtype for value in vars(result).values()} == {torch.float32}
        gradients.append(torch.autograd.grad(result.loss, list(net.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_under_bfloat16_autocast_a_small_split_is_no_quotient_of_rounding_errors(dropout):
    gradients = []
    for enabled in (False, True):
        net = small_net("mlp", dropout=dropout).float().train()
        torch.manual_seed(3)
        x, noise, r, t = (value.float() for value in batch((3,)))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = meanflow_loss(net, x, noise, r, t, objective=objective("soflow"), split=1e-3)
        gradients.append(torch.autograd.grad(result.loss, list(net.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.03 * exact.norm()


def test_the_weight_by_gap_is_one_where_r_is_t_and_falls_with_the_gap():
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    plain, weighted = (
        meanflow_loss(net, x, noise, r, t, objective=objective("meanflow", gap_weight=g)) for g in (0.0, 2.0)
    )
    h = t - r
    expected = 1 / (1 + 2 * h) / torch.sqrt(1 + 2 * h**2)
    torch.testing.assert_close(weighted.weighted, plain.weighted * expected, rtol=1e-12, atol=0)
    assert torch.equal(weighted.weight[ROWS:], torch.ones(4).double())


@pytest.mark.parametrize("name", ["alphaflow", "split"])
def test_the_target_of_a_finite_split_can_be_cut(name):
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    plain, cut = (
        meanflow_loss(net, x, noise, r, t, objective=objective(name, clip=clip), split=SPLITS) for clip in (None, 0.8)
    )
    assert plain.target[:ROWS].abs().max() > 1
    torch.testing.assert_close(cut.target[:ROWS], plain.target[:ROWS].clamp(-0.8, 0.8), rtol=0, atol=0)
    assert torch.equal(cut.target[ROWS:], plain.target[ROWS:])


@pytest.mark.parametrize(("split", "share"), [(0.1, 0.91), (0.02, 0.29), (0.005, 0.024)])
def test_alphaflows_own_weight_fades_its_rows_out_as_the_split_falls(split, share):
    """a |u - u*|^2 / (|u - u*|^2 + c) against MeanFlow's; `share` is that of an error of 1 with c = 1e-3."""
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    weight = {"power": 1.0, "eps": 1e-3}
    own, plain = (
        meanflow_loss(
            net, x, noise, r, t, objective=objective("alphaflow", weight=WeightConfig(of=of, **weight)), split=split
        )
        for of in ("difference", "quotient")
    )
    difference = (own.u - own.target).square().sum(1)
    torch.testing.assert_close(
        own.weighted[:ROWS], (split * difference / (difference + 1e-3))[:ROWS], rtol=1e-12, atol=0
    )
    torch.testing.assert_close(own.weighted[ROWS:], plain.weighted[ROWS:], rtol=1e-12, atol=0)
    error = own.squared_error[:ROWS]
    ratio = (own.weight / plain.weight)[:ROWS] * error / (error + 1e-3)
    torch.testing.assert_close(ratio, 1 / (1 + 1e-3 / (split**2 * error)), rtol=1e-12, atol=0)
    assert 1 / (1 + 1e-3 / split**2) == pytest.approx(share, abs=0.006)


def test_a_split_that_moves_must_be_given():
    x, noise, r, t = batch((3,))
    with pytest.raises(ValueError, match="the split of 'soflow' changes"):
        meanflow_loss(small_net("mlp"), x, noise, r, t, objective=ObjectiveConfig(name="soflow"))


def test_a_preset_changed_in_one_key_is_a_mixture():
    """MeanFlow with a finite split is alpha-Flow at that split, bit for bit."""
    net, (x, noise, r, t) = small_net("mlp"), batch((3,))
    mixture = objective("meanflow", split=SplitConfig(start=0.25))
    one = meanflow_loss(net, x, noise, r, t, objective=mixture)
    other = meanflow_loss(net, x, noise, r, t, objective=objective("alphaflow"), split=0.25)
    assert torch.equal(one.loss, other.loss)
    assert not torch.equal(
        one.loss, meanflow_loss(net, x, noise, r, t, objective=replace(mixture, split=SplitConfig(start=0.0))).loss
    )
