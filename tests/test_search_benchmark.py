"""The benchmark of searches on recorded learning curves: its world, its count of steps, its ratios."""

import json
import math
import sys
from pathlib import Path

import pytest

from tests import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import curves_world
import record_curves
import search_on_curves

pytestmark = pytest.mark.filterwarnings("ignore")  # of a fit at its bounds, and of Sobol sequences of other lengths


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curves_world, "TRAININGS", 60)
    monkeypatch.setattr(curves_world, "FITTED", 60)
    curves_world.fitted.cache_clear()
    curves_world.seed_noise.cache_clear()
    yield curves_world.World(1)
    curves_world.fitted.cache_clear()
    curves_world.seed_noise.cache_clear()


def test_the_table_has_the_trainings_that_the_script_would_have_made():
    table = json.loads(record_curves.TABLE.read_text())
    assert len(table) >= 300
    assert len({(entry["config"], entry["model"], entry["seed"]) for entry in table}) == len(table)
    own = [entry for entry in table if entry["config"] >= record_curves.FIRST]
    assert own
    last = own[-1]
    before = [entry for entry in table if entry is not last]
    number, network, seed, _ = record_curves.next_training(before)
    assert (number, network, seed) == (last["config"], last["model"], last["seed"])


def test_a_point_of_the_unit_cube_and_its_configuration_are_one():
    point = [0.25, 0.3, 0.6, 0.1, 0.5, 0.9, 0.4]
    assert record_curves.point_of(record_curves.values_at(point)) == pytest.approx(point)


def test_a_search_is_charged_every_step_and_its_incumbent_is_judged_by_the_truth(world, tmp_path: Path):
    settings = {"method": "random", "early_terminate": {"type": "asha", "min_iter": 400, "eta": 2, "promote": True}}
    search = search_on_curves.OwnSearch.of(settings, 0, tmp_path)
    seen = []
    for spent, value in search_on_curves.trained(search, world, 0, 2, tmp_path):
        seen.append((spent, value))
        if spent > 3000:
            break
    assert seen[0][0] >= 1200  # two come to the first rung, one of them to its end
    assert all(spent % 100 == 0 and math.isfinite(value) for spent, value in seen)
    best, median = world.goals((0.02, 0.5))
    assert best < median


def test_a_ratio_is_that_of_the_medians_with_a_search_that_fails_counted_as_twice_the_cap():
    ours, theirs = [1000.0, 2000.0, 3000.0], [4000.0, math.inf, 8000.0]
    middle, low, high = search_on_curves.ratio(ours, theirs)
    assert middle == 2000 / 8000
    assert low <= middle <= high
    assert search_on_curves.median([1.0, 5.0, math.inf, math.inf]) == math.inf
    assert search_on_curves.shown(math.inf) == f"> {search_on_curves.CAP:,}"
