"""What was drawn by an earlier release is drawn the same: a sweep begun with it goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.search.draws import Draw, Observation
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy

CASES = json.loads((Path(__file__).parents[1] / "data" / "draws.json").read_text())


def height(values: dict[str, Any]) -> float:
    return float((values["x"] - 0.3) ** 2 + (values["y"] - 0.4) ** 2 + 0.01 * values.get("depth", 1))


def recorded(draws: Sequence[Draw], mixed: bool) -> list[Observation]:
    """What became of the draws when the file was written: all finished, or stopped, failed and running ones too."""
    found = []
    for number, draw in enumerate(draws):
        value, last = height(draw.values), number > len(draws) - 3
        state, metrics, step, bad = TrialState.FINISHED, (value,), 90, False
        match number % 6 if mixed else 0:
            case 1:
                state, metrics, step = TrialState.PRUNED, (value + 0.3,), 30
            case 2:
                state, metrics, step, bad = TrialState.FAILED, None, 10, True
            case 3:
                state, metrics, step = TrialState.AT_RUNG, (value + 0.1,), 10
            case 4 if last:
                state, metrics, step = TrialState.RUNNING, None, 0
        found.append(Observation(number, draw.values, state, metrics, step, bad, draw.sampler))
    return found


def ids(case: dict[str, Any]) -> str:
    return f"{case['case']}{' mixed' if case['mixed'] else ''}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_draws_of_an_earlier_release_are_drawn_again(case: dict[str, Any]) -> None:
    search, draws = toy.search(case["sweep"]), list[Draw]()
    if case["case"] == "tpe long":  # more trials than it is shown
        free = toy.search({**case["sweep"], "method": "random"})
        known = recorded([free.draw(position, [], lambda values: True) for position in range(330)], mixed=True)
        draws = [search.draw(position, known, lambda values: True) for position in range(330, 334)]
    else:
        for _ in range(case["count"]):
            position, tried = draws[-1].position + 1 if draws else 0, [draw.values for draw in draws]
            known = recorded(draws, case["mixed"])
            draw = search.draw(position, known, lambda values, tried=tried: values not in tried)
            if draw is None:
                break
            draws.append(draw)
    assert [draw.position for draw in draws] == [position for position, _ in case["draws"]]
    for draw, (_, values) in zip(draws, case["draws"], strict=True):
        assert draw.values.keys() == values.keys()
        for key, value in values.items():
            near = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert draw.values[key] == near, (draw.position, key)
