import pytest
import torch

from meanflow_core.sampling.sampler import sample
from tests.meanflow_core.small_nets import small_net

CENTRE = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
NOISE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def point_field(z, r, t, labels):
    """The exact average velocity when all data is one point: (z - c) / t, whatever r."""
    return (z - CENTRE) / t[:, None]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_exact_field_of_point_data_lands_on_the_point(steps):
    landed = sample(point_field, NOISE, steps=steps)
    torch.testing.assert_close(landed, CENTRE.expand(6, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"steps": 1}, {"grid": (1.0, 0.0)}, {"grid": [1, 0], "steps": 9}])
def test_one_step_is_noise_minus_the_velocity_over_the_whole_span(options):
    net = small_net("mlp")
    expected = NOISE - net(NOISE, torch.zeros(6).double(), torch.ones(6).double(), None)
    assert torch.equal(sample(net, NOISE, **options), expected.detach())


def test_every_step_is_told_its_own_span_and_the_last_ends_at_exactly_zero():
    asked = []

    def net(z, r, t, labels):
        asked.append((t[0].item(), r[0].item(), labels))
        return torch.zeros_like(z)

    labels = torch.zeros(6, dtype=torch.int64)
    sample(net, NOISE, labels=labels, steps=3)
    assert [pair[:2] for pair in asked] == [(1.0, 1 - 1 / 3), (1 - 1 / 3, 1 - 2 / 3), (1 - 2 / 3, 0.0)]
    assert all(given is labels for _, _, given in asked)
    asked.clear()
    sample(net, NOISE, grid=[1.0, 0.3, 0.0])
    assert [pair[:2] for pair in asked] == [(1.0, 0.3), (0.3, 0.0)]


def test_sampling_needs_no_gradient_uses_no_dropout_and_leaves_the_mode_as_it_was():
    net = small_net("mlp", dropout=0.5).train()
    net.norm.eval()
    first, second = sample(net, NOISE), sample(net, NOISE)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert net.training
    assert net.dropout.training
    assert not net.norm.training


@pytest.mark.parametrize("grid", [(1.0,), (0.9, 0.0), (1.0, 0.1), (1.0, 0.5, 0.5, 0.0), (1.0, 0.2, 0.6, 0.0)])
def test_a_grid_that_does_not_fall_from_one_to_zero_is_refused(grid):
    with pytest.raises(ValueError, match="from 1 to 0"):
        sample(point_field, NOISE, grid=grid)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps >= 1"):
        sample(point_field, NOISE, steps=0)
