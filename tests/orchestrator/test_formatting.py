import math

import pytest

from orchestrator.formatting import duration, hours, join, number, p_value, plus_minus, short_names, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.345678, "12.35"),
        (0.000735358, "7.354e-4"),
        (0.001, "0.001"),
        (1e-4, "1e-4"),
        (123456.0, "1.235e5"),
        (4500, "4500"),
        (True, "true"),
        (None, "-"),
        ("lognorm", "lognorm"),
        ([0.9, 0.999], "[0.9, 0.999]"),
        (-math.inf, "-inf"),
        (0.0, "0"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (12.3456, 0.4321, "12.35 ± 0.43"),
        (2.4, 0.0123, "2.400 ± 0.012"),
        (1234.5, 87.0, "1234 ± 87"),
        (123456.0, 7890.0, "123500 ± 7900"),
        (0.5, None, "0.5"),
        (0.5, 0.0, "0.5"),
        (None, None, "-"),
    ],
)
def test_means_with_intervals(mean, half, text):
    assert plus_minus(mean, half) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8s"),
        (59.6, "1m"),
        (45, "45s"),
        (3600 * 3 + 720, "3h 12m"),
        (86400 * 2 + 60, "2d"),
        (None, "-"),
        (math.inf, "-"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_short_names_stay_different():
    names = ["objective.time.mean", "optimizer.lr", "a.x.lr2", "a.scale", "b.scale", "scale"]
    assert short_names(names) == {
        "objective.time.mean": "mean",
        "optimizer.lr": "lr",
        "a.x.lr2": "lr2",
        "a.scale": "a.scale",
        "b.scale": "b.scale",
        "scale": "scale",
    }


def test_small_words():
    assert join(["a"]) == "a"
    assert join(["a", "b", "c"]) == "a, b and c"
    assert join([]) == ""
    assert (p_value(0.0004), p_value(0.0132)) == ("p<0.001", "p=0.013")
    assert (hours(0.0417), hours(1280.0), hours(None)) == ("0.0417 h", "1280 h", "-")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1.3 * 2**30, "1.3 GiB"),
        (73.4 * 2**30, "73 GiB"),
        (2**51, "2048 TiB"),
    ],
)
def test_sizes(amount, text):
    assert size(amount) == text
