import torch

from meanflow_core.flow.path import interpolate, per_row


def test_the_path_starts_at_the_data_and_ends_at_the_noise():
    x, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    assert torch.equal(interpolate(x, noise, torch.zeros(3, dtype=torch.float64)).z, x)
    assert torch.equal(interpolate(x, noise, torch.ones(3, dtype=torch.float64)).z, noise)


def test_the_velocity_is_the_derivative_of_the_path():
    x, noise = torch.randn(2, 3, 5, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    point = interpolate(x, noise, t)
    _, dz = torch.func.jvp(lambda s: interpolate(x, noise, s).z, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(point.velocity, dz, rtol=0, atol=1e-14)
    torch.testing.assert_close(point.velocity, noise - x, rtol=0, atol=0)


def test_each_row_has_its_own_time():
    x, noise = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    z = interpolate(x, noise, torch.tensor([0.25, 0.75])).z
    assert z[0].unique().tolist() == [0.25]
    assert z[1].unique().tolist() == [0.75]
    assert per_row(torch.arange(2.0), x).shape == (2, 1, 1, 1)
