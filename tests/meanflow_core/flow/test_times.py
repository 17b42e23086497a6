import math

import numpy as np
import pytest
import torch

from meanflow_core.config import TimeConfig
from meanflow_core.flow.times import LAWS, sample_dropped, sample_times, spanning_rows

N = 400_000


def drawn(**law):
    config = TimeConfig(**law)
    r, t = sample_times(N, config, generator=torch.Generator().manual_seed(3))
    m = spanning_rows(N, config.ratio)
    return r.double(), t.double(), m


def quadrature(law, mean, std, function):
    """E f(s, t) of two independent draws, by Gauss quadrature in each."""
    if law == "uniform":
        nodes, weights = np.polynomial.legendre.leggauss(400)
        values, weights = (nodes + 1) / 2, weights / 2
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(180)
        values, weights = 1 / (1 + np.exp(-(mean + std * nodes))), weights / math.sqrt(2 * math.pi)
    a, b = np.meshgrid(values, values)
    return float((function(a, b) * weights[:, None] * weights).sum())


@pytest.mark.parametrize(
    ("law", "mean", "std"), [("lognorm", -0.4, 1.0), ("lognorm", -2.0, 2.0), ("uniform", -0.4, 1.0)]
)
def test_moments_match_exact_quadrature(law, mean, std):
    settings = {"law": law, "mean": mean, "std": std, "ratio": 0.5}
    r, t, m = drawn(**settings)
    gap = (t - r)[:m]
    # |a - b| has a kink on the diagonal, where tensor quadrature converges slowly: its error is far below this
    assert gap.mean().item() == pytest.approx(quadrature(law, mean, std, lambda a, b: abs(a - b)), abs=3e-3)
    assert t[m:].mean().item() == pytest.approx(quadrature(law, mean, std, np.maximum), abs=3e-3)
    assert (r + t)[:m].mean().item() == pytest.approx(quadrature(law, mean, std, np.add), abs=4e-3)
    single = drawn(**settings, order="mask_then_swap")[1][m:]
    assert single.mean().item() == pytest.approx(quadrature(law, mean, std, lambda a, b: a), abs=3e-3)
    assert single.square().mean().item() == pytest.approx(quadrature(law, mean, std, lambda a, b: a * a), abs=3e-3)


def test_the_order_of_swap_and_mask_moves_the_times_of_flow_matching_rows():
    _, t, m = drawn()
    assert t[m:].mean().item() == pytest.approx(0.5347, abs=2e-3)
    _, t, m = drawn(order="mask_then_swap")
    assert t[m:].mean().item() == pytest.approx(0.4180, abs=2e-3)


def test_mean_gap_of_the_default_and_of_the_uniform_law():
    r, t, _ = drawn(ratio=1.0)
    assert (t - r).mean().item() == pytest.approx(0.2334, abs=1e-3)
    r, t, _ = drawn(law="uniform", ratio=1.0)
    assert (t - r).mean().item() == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize("order", ["swap_then_mask", "mask_then_swap"])
@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize(
    ("n", "ratio", "expected"), [(16, 0.25, 4), (10, 0.75, 8), (7, 0.0, 0), (5, 1.0, 5), (3, 0.1, 0)]
)
def test_an_exact_count_of_rows_comes_first_and_has_r_below_t(n, ratio, expected, law, order):
    r, t = sample_times(n, TimeConfig(law=law, ratio=ratio, order=order), generator=torch.Generator().manual_seed(0))
    assert spanning_rows(n, ratio) == expected
    assert (r != t).tolist() == [True] * expected + [False] * (n - expected)
    assert torch.all((r >= 0) & (r <= t) & (t <= 1))
    assert r.dtype == t.dtype == torch.float32


def test_times_are_a_function_of_the_generator_alone():
    one, two = (sample_times(8, TimeConfig(), generator=torch.Generator().manual_seed(7)) for _ in range(2))
    other = sample_times(8, TimeConfig(), generator=torch.Generator().manual_seed(8))
    assert torch.equal(torch.stack(one), torch.stack(two))
    assert not torch.equal(torch.stack(one), torch.stack(other))


def test_the_dropped_rows_are_an_exact_count_and_reach_the_rows_with_r_below_t_in_proportion():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([sample_dropped(16, 0.1, generator=generator) for _ in range(4000)])
    assert draws.sum(1).unique().tolist() == [2]
    assert draws.dtype == torch.bool
    assert draws[:, :4].double().mean().item() == pytest.approx(2 / 16, abs=0.01)
    assert not sample_dropped(16, 0.0).any()
