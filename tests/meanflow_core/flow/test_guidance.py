import pytest
import torch

from meanflow_core.config import GuidanceConfig
from meanflow_core.flow.guidance import evaluating, guided_velocity
from meanflow_core.flow.path import interpolate
from tests.meanflow_core.small_nets import batch, small_net

NULL = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
DROPPED = torch.tensor([False, True, False, False, False, True, False])
ROWS = 3


def problem():
    net = small_net("mlp", classes=3)
    x, noise, _, t = batch((3,))
    return net, interpolate(x, noise, t), t


def guided(net, point, t, config, **kwargs):
    net.calls.clear()
    options = {"labels": LABELS, "dropped": DROPPED, "null_label": NULL, "spanning_rows": ROWS, **kwargs}
    return guided_velocity(net, point.z, t, point.velocity, config=config, **options)


def complete(guided, net, point, t):
    """The guided velocity of all rows, given what a training pass would predict at r = t."""
    return torch.cat([guided.leading, guided.rest(net(point.z, t, t, LABELS)[ROWS:])])


@pytest.mark.parametrize(
    ("omega", "kappa"), [(2.0, 0.0), (1.0, 0.5), (0.2, 0.9), (3.0, 0.25), (0.5, 0.5)], ids=lambda value: f"{value:g}"
)
@pytest.mark.parametrize("drops", [None, 2])
def test_it_is_equation_21_on_every_row_that_is_not_dropped(omega, kappa, drops):
    net, point, t = problem()
    result = guided(net, point, t, GuidanceConfig(omega=omega, kappa=kappa), dropped_count=drops)
    with torch.no_grad():
        at_label, at_null = net(point.z, t, t, LABELS), net(point.z, t, t, torch.full_like(LABELS, NULL))
    expected = omega * point.velocity + kappa * at_label + (1 - omega - kappa) * at_null
    expected[DROPPED] = point.velocity[DROPPED]
    torch.testing.assert_close(complete(result, net, point, t), expected, rtol=0, atol=1e-10)
    assert not result.leading.requires_grad
    assert not result.rest(net(point.z, t, t, LABELS)[ROWS:]).requires_grad


def test_the_scale_fixes_omega():
    net, point, t = problem()
    by_scale = guided(net, point, t, GuidanceConfig(scale=2.5, kappa=0.8))
    by_omega = guided(net, point, t, GuidanceConfig(omega=0.2 * 2.5, kappa=0.8))
    torch.testing.assert_close(by_scale.leading, by_omega.leading, rtol=0, atol=1e-12)


def test_no_guidance_returns_the_plain_velocity_and_costs_no_pass():
    net, point, t = problem()
    result = guided(net, point, t, GuidanceConfig(omega=1.0, kappa=0.0))
    assert net.calls == []
    assert torch.equal(complete(result, net, point, t), point.velocity)


def test_one_pass_serves_both_terms_and_skips_what_is_not_needed():
    net, point, t = problem()
    guided(net, point, t, GuidanceConfig(omega=1.0, kappa=0.5))
    ((_, training, recording, labels),) = net.calls
    assert labels == [NULL] * 5 + [0, 2]  # the null label where not dropped, the true one where r != t too
    assert not training
    assert not recording


def test_rows_outside_the_interval_are_in_no_pass_and_without_others_there_is_none():
    net, point, _ = problem()
    t = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.5, 0.5, 0.8], dtype=torch.float64)
    guided(net, point, t, GuidanceConfig(omega=1.0, kappa=0.5, start=0.25, end=0.75))
    assert [call[3] for call in net.calls] == [[NULL, NULL, 2]]  # rows 2 and 4; 2 has r != t; 1 and 5 are dropped
    result = guided(net, point, t, GuidanceConfig(omega=1.0, kappa=0.5, start=0.95))
    assert net.calls == []
    assert torch.equal(complete(result, net, point, t), point.velocity)


@pytest.mark.parametrize("drops", [2, 1, 0])
def test_where_values_cannot_be_looked_at_only_the_dropped_rows_are_left_out(drops, monkeypatch):
    net, point, t = problem()
    config = GuidanceConfig(omega=1.2, kappa=0.5, start=0.4)
    looked = complete(guided(net, point, t, config), net, point, t)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    result = guided(net, point, t, config, dropped_count=drops)
    assert [call[0] for call in net.calls] == [7 - drops + ROWS]
    torch.testing.assert_close(complete(result, net, point, t), looked, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("omega", "kappa", "rows"), [(2.0, 0.0, 5), (0.5, 0.5, ROWS - 1)])
def test_a_term_with_coefficient_zero_is_not_computed(omega, kappa, rows):
    net, point, t = problem()
    guided(net, point, t, GuidanceConfig(omega=omega, kappa=kappa))
    assert [call[0] for call in net.calls] == [rows]


def test_both_ends_of_the_interval_are_guided_and_what_lies_outside_is_not():
    net, point, _ = problem()
    t = torch.tensor([0.25, 0.75, 0.5, 0.25, 0.7500001, 0.2499999, 0.75], dtype=torch.float64)
    config = GuidanceConfig(omega=2.0, kappa=0.25, start=0.25, end=0.75)
    result = complete(guided(net, point, t, config, dropped=None), net, point, t)
    changed = (result != point.velocity).all(1)
    assert changed.tolist() == [True, True, True, True, False, False, True]
    assert torch.equal(result[~changed], point.velocity[~changed])


@pytest.mark.parametrize("missing", ["labels", "null_label"])
def test_guidance_without_labels_is_refused(missing):
    net, point, t = problem()
    with pytest.raises(ValueError, match="needs class labels"):
        guided(net, point, t, GuidanceConfig(omega=2.0), **{missing: None})


def test_evaluating_gives_every_module_its_mode_back_even_after_an_error():
    net = small_net("mlp").train()
    net.norm.eval()
    seen = []

    def fail():
        with evaluating(net):
            seen.extend(module.training for module in net.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any(seen)
    assert net.training
    assert not net.norm.training
