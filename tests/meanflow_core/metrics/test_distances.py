"""Distances against closed forms and other ways to compute them, in float64."""

import itertools
import math
import sys

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meanflow_core.errors import ConfigError
from meanflow_core.metrics.frechet import Moments, MomentSum, fault_of, frechet_distance, moments_of
from meanflow_core.metrics.mmd import SCALES, median_distance, mmd
from meanflow_core.metrics.precision_recall import precision_recall
from meanflow_core.metrics.reference import read_moments
from meanflow_core.metrics.transport import sliced_wasserstein, wasserstein


def rows(count, size, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    return scale * torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing + shift


# ---------------------------------------------------------------------------------------------- moments


@given(cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=25, deadline=None)
def test_moments_do_not_depend_on_the_batches(cuts):
    x = rows(40, 3, seed=1, shift=5.0)
    total = MomentSum()
    for start, stop in itertools.pairwise([0, *sorted(cuts), 40]):
        total.add(x[start:stop].float().double())
    moments = total.moments()
    expected = x.float().double().numpy()
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean.numpy(), expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(expected.T), rtol=1e-10, atol=1e-12)


def test_moments_of_float32_features_far_from_zero_lose_nothing():
    noise = rows(20_000, 2, seed=2).float()
    shifted = (noise * 2**-6 + 512).float()
    total = MomentSum()
    for part in shifted.split(333):
        total.add(part)
    np.testing.assert_allclose(total.moments().covariance.numpy(), np.cov(shifted.double().numpy().T), rtol=1e-9)


def test_a_single_row_has_no_covariance():
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        moments_of(torch.zeros(1, 3))


# ---------------------------------------------------------------------------------------------- Frechet


def test_frechet_of_lines_is_known_in_closed_form():
    def law(mean, std):
        return Moments(torch.tensor([mean], dtype=torch.float64), torch.tensor([[std**2]], dtype=torch.float64), 9)

    assert frechet_distance(law(0.3, 2.0), law(-1.0, 0.5)) == pytest.approx(1.3**2 + 1.5**2, rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 17])
def test_frechet_agrees_with_the_root_of_the_product(size):
    first, second = moments_of(rows(50, size, seed=3)), moments_of(rows(60, size, seed=4, scale=1.7, shift=0.4))
    root = scipy.linalg.sqrtm(first.covariance.numpy() @ second.covariance.numpy())
    expected = (first.mean - second.mean).square().sum() + np.trace(
        first.covariance.numpy() + second.covariance.numpy() - 2 * root.real
    )
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_of_commuting_covariances_is_the_distance_of_the_roots():
    generator = torch.Generator().manual_seed(7)
    basis = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    a, b = (torch.rand(5, generator=generator, dtype=torch.float64) for _ in range(2))
    zero = torch.zeros(5, dtype=torch.float64)
    first, second = (Moments(zero, basis @ torch.diag(v**2) @ basis.T, None) for v in (a, b))
    assert frechet_distance(first, second) == pytest.approx((a - b).square().sum().item(), rel=1e-10)


def test_frechet_to_itself_is_zero_even_where_the_covariance_is_singular():
    flat = moments_of(rows(5, 20, seed=5))  # rank 4 of 20
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)
    other = moments_of(rows(6, 20, seed=6))
    assert frechet_distance(flat, other) == pytest.approx(frechet_distance(other, flat), rel=1e-9)
    assert frechet_distance(flat, other) > 1


def test_frechet_refuses_other_dimensions():
    with pytest.raises(ValueError, match="of 3 and of 4 features"):
        frechet_distance(moments_of(rows(9, 3, seed=1)), moments_of(rows(9, 4, seed=1)))


# -------------------------------------------------------------------------------------------- transport


def test_a_shift_is_transported_along_itself():
    x = rows(30, 2, seed=1)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert wasserstein(x + shift, x[torch.randperm(30)]) == pytest.approx(0.5, rel=1e-10)


def test_the_exact_distance_is_the_best_of_all_pairings():
    x, y = rows(6, 2, seed=1), rows(6, 2, seed=2, shift=0.7)
    costs = [
        sum((x[i] - y[j]).square().sum().item() for i, j in enumerate(order)) / 6
        for order in itertools.permutations(range(6))
    ]
    assert wasserstein(x, y) == pytest.approx(math.sqrt(min(costs)), rel=1e-12)


def test_only_equally_many_leading_rows_are_matched():
    x, y = rows(9, 2, seed=1), rows(5, 2, seed=2)
    assert wasserstein(x, y) == wasserstein(x[:5], y)
    assert wasserstein(x, x.flip(0), limit=4) == wasserstein(x[:4], x.flip(0)[:4])
    assert sliced_wasserstein(x, y) == sliced_wasserstein(x[:5], y)


def test_without_scipy_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scipy"):
        wasserstein(torch.zeros(2, 2), torch.zeros(2, 2))


def test_on_the_line_sliced_is_exact_and_agrees_with_scipy():
    x, y = rows(40, 1, seed=1), rows(40, 1, seed=2, scale=2.0, shift=0.3)
    assert sliced_wasserstein(x, y) == pytest.approx(wasserstein(x, y), rel=1e-10)
    shifted = x + 0.25
    assert sliced_wasserstein(x, shifted) == pytest.approx(
        scipy.stats.wasserstein_distance(x.flatten(), shifted.flatten()), rel=1e-10
    )


def test_a_shift_projects_to_its_length_over_the_root_of_the_dimension():
    x = rows(20, 3, seed=1)
    shift = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    found = sliced_wasserstein(x, x + shift, lines=20_000)
    assert found == pytest.approx(math.sqrt(5 / 3), rel=0.02)
    assert found == sliced_wasserstein(x, x + shift, lines=20_000)


# -------------------------------------------------------------------------------------------------- MMD


def test_mmd_by_the_double_sum():
    x, y = rows(5, 2, seed=1), rows(7, 2, seed=2, shift=0.5)
    widths = [scale * median_distance(y) for scale in SCALES]

    def kernel(a, b):
        return sum(math.exp(-((a - b).square().sum().item()) / (2 * w * w)) for w in widths) / len(widths)

    within = [sum(kernel(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert mmd(x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-10)


def test_mmd_of_equal_laws_is_zero_in_the_mean_and_grows_with_a_shift():
    reference = rows(400, 2, seed=0)
    mixing = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 2, generator=mixing, dtype=torch.float64) / 2**0.5
    same = [torch.randn(400, 2, generator=mixing, dtype=torch.float64) @ factor for _ in range(20)]
    values = [mmd(x, reference) for x in same]
    assert abs(sum(values) / 20) < 0.004
    assert min(values) < 0
    shifts = [mmd(same[0] + shift, reference) for shift in (0.2, 0.5, 1.5)]
    assert 0.004 < shifts[0] < shifts[1] < shifts[2]


# ------------------------------------------------------------------------------------- precision, recall


def test_samples_that_cover_half_of_the_data_are_precise_and_recall_half():
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(300, 2, generator=generator)
    data[150:] += 50
    samples = data[:150].repeat(2, 1) + 1e-4 * torch.randn(300, 2, generator=generator)
    precision, recall = precision_recall(samples, data)
    assert precision == 1.0
    assert recall <= 0.5
    assert precision_recall(data, samples) == (recall, precision)


def test_far_samples_are_neither_precise_nor_recalled():
    data = rows(50, 3, seed=1)
    assert precision_recall(data + 1e3, data) == (0.0, 0.0)


def test_precision_by_hand():
    data = torch.tensor([[0.0], [1.0], [10.0]])
    samples = torch.tensor([[5.0], [5.5], [20.0]])
    # One neighbour: the data's balls are [-1, 1], [0, 2], [1, 19]; the samples' are [4.5, 5.5], [5, 6], [5.5, 34.5].
    assert precision_recall(samples, data, neighbours=1) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="more than 3 rows, got 3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))


BROKEN = {
    "a mean that is nan": ([math.nan, 0.0], [[1.0, 0.0], [0.0, 1.0]], "not finite"),
    "an infinite mean": ([0.0, math.inf], [[1.0, 0.0], [0.0, 1.0]], "not finite"),
    "a covariance with nan": ([0.0, 0.0], [[1.0, math.nan], [math.nan, 1.0]], "not finite"),
    "a negative variance": ([0.0, 0.0], [[1.0, 0.0], [0.0, -1.0]], "not positive semi-definite.*-1"),
    "a correlation above 1": ([0.0, 0.0], [[1.0, 1.5], [1.5, 1.0]], "not positive semi-definite"),
    "an asymmetric one": ([0.0, 0.0], [[1.0, 0.5], [0.1, 1.0]], "not symmetric"),
}


def broken(name):
    mean, covariance, said = BROKEN[name]
    return Moments(torch.tensor(mean).double(), torch.tensor(covariance).double(), 7), said


@pytest.mark.parametrize("name", [name for name in BROKEN if "asymmetric" not in name])
def test_what_are_no_moments_has_no_distance_least_of_all_the_best_one(name):
    moments, _ = broken(name)
    sound = Moments(torch.zeros(2).double(), torch.eye(2).double(), 7)
    for pair in ((moments, sound), (sound, moments)):
        with pytest.raises(ValueError, match=r"not finite|distance is|semi-definite"):
            frechet_distance(*pair)


@pytest.mark.parametrize("name", BROKEN)
def test_a_reference_file_that_holds_no_moments_is_refused(name, tmp_path):
    moments, said = broken(name)
    np.savez(tmp_path / "reference.npz", mu=moments.mean.numpy(), sigma=moments.covariance.numpy())
    with pytest.raises(ConfigError, match=rf"evaluation.reference: holds no moments: .*{said}"):
        read_moments(str(tmp_path / "reference.npz"))


def test_a_singular_covariance_in_float32_is_one():
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 40)
    moments = moments_of(rows)
    rounded = Moments(moments.mean, moments.covariance.float().double(), 5)
    assert fault_of(rounded) is None
    assert frechet_distance(rounded, moments) < 1e-2 * float(moments.covariance.trace())
