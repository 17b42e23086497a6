import dataclasses
import io
import re
import sys
import types

import pytest
from rich.console import Console

from orchestrator.results.live import LiveDisplay, render, view
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials


def some():
    return [
        record(1, 3.0, busy_seconds=100.0, ended=500.0),
        record(2, 9.0, state="pruned", steps=500, busy_seconds=20.0, ended=600.0),
        record(
            3, 4.0, state="running", steps=1500, reports={500: {METRIC: 3.5}, 1500: {METRIC: 4.0}}, busy_seconds=30.0
        ),
        record(4, None, state="failed", steps=500, failure=Failure("diverged", "the loss is nan"), ended=550.0),
    ]


def text_of(renderable, width=100):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_running_trials_come_first_then_the_latest():
    found = view(spec(), some(), state="running")
    assert [row.trial for row in found.rows] == ["3", "2", "4", "1"]
    assert dataclasses.asdict(found.rows[0]) == {
        "trial": "3",
        "state": "running",
        "failure": None,
        "step": 1500,
        "total": 4500,
        "metric": 4.0,
        "best": 3.5,
        "seconds_left": 60.0,
    }


def test_the_table_says_where_each_trial_stands_and_what_is_best():
    text = text_of(render(view(spec(), some(), state="running")))
    head = next(line for line in text.splitlines() if "best so far" in line)
    assert head.split() == ["trial", "state", "step", "fid_1nfe", "best", "so", "far", "time", "left"]
    row = next(line for line in text.splitlines() if "1500/4500" in line)
    assert {"3", "running", "4", "3.5", "1m"} <= set(row.split())
    assert "diverged" in text
    assert "best 3 (trial 1)" in text
    assert "3 of 33 ended" in text


def test_the_table_fits_and_is_short_for_many_trials():
    found = view(spec(), trials() * 10, rows=8)
    assert len(found.rows) == 8
    assert max(map(len, text_of(render(found), width=80).splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 64, 50])
def test_a_long_metric_leaves_out_the_bar_and_shortens_titles_and_never_a_value(width):
    metric = "eval/ema_0.9999/sliced_wasserstein_1nfe"
    reports = {1500: {metric: 0.0125}}
    some_ = [record(k, 0.0125, reports=reports, steps=1500, state="running") for k in range(1, 4)]
    long = spec(metrics=(Metric(name=metric),))
    text = text_of(render(view(long, some_, state="running"), width=width), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert text.count("0.0125") >= 6
    assert text.count("1500/4500") == 3
    assert "━" not in text.splitlines()[3]


def test_a_sweep_without_trials_can_be_shown():
    assert "no result yet" in text_of(render(view(spec(), [])))


def lines(*updates, before=()):
    out, now = io.StringIO(), iter(range(1000))
    with LiveDisplay(spec(), Console(file=out, width=40), clock=lambda: next(now), before=before) as display:
        for trials_ in updates:
            display.update(trials_, state="running")
    return out.getvalue().splitlines()


def test_without_a_terminal_each_trial_that_ends_is_one_line_once():
    told = lines(some()[:1], some(), lambda: some())
    assert [line.split()[1] for line in told] == ["1", "2", "4"]
    assert told[0].startswith("trial 1 finished at step 4500: eval/fid_1nfe 3 (1m 40s); best 3 (trial 1);")
    assert "diverged: the loss is nan" in told[2]


def test_a_terminal_s_trials_are_told_in_the_log_too(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with LiveDisplay(spec(), console, log=tmp_path / "driver.log") as display:
        display.update(some())
    told = (tmp_path / "driver.log").read_text().splitlines()
    assert [line.split()[3] for line in told] == ["1", "2", "4"]


def test_a_reason_that_names_its_kind_is_not_told_twice():
    failed = record(4, None, state="failed", failure=Failure("diverged", "diverged at step 7: nan"), ended=550.0)
    (told,) = lines([failed])
    assert told.startswith("trial 4 diverged at step 7: nan (1m); no result yet;")


def test_trials_that_ended_before_are_not_told_again():
    rests = record(5, 2.0, state="at-rung", steps=500)
    before = [some()[0], rests]
    assert [line.split()[1] for line in lines([*some(), rests], before=before)] == ["2", "4"]


def test_a_trial_that_comes_to_rest_is_told_each_time_and_so_is_its_end():
    at_rung = record(5, 2.0, state="at-rung", steps=500, busy_seconds=20.0)
    higher = record(5, 1.5, state="at-rung", steps=1500, busy_seconds=60.0)
    paused = record(6, 4.0, state="paused", steps=500)
    running = record(5, 1.8, state="running", steps=1000)
    ended = record(5, 1.5, state="pruned", steps=1500, busy_seconds=60.0, ended=900.0)
    told = lines([at_rung], [at_rung, paused], [running, paused], [higher, paused], [ended, paused])
    assert [line.partition(" (")[0] for line in told] == [
        "trial 5 at-rung at step 500: eval/fid_1nfe 2",
        "trial 6 paused at step 500: eval/fid_1nfe 4",
        "trial 5 at-rung at step 1500: eval/fid_1nfe 1.5",
        "trial 5 pruned at step 1500: eval/fid_1nfe 1.5",
    ]


def test_an_extended_sweep_is_shown_at_its_new_length():
    out = io.StringIO()
    with LiveDisplay(spec(run_cap=2, replicates=None), Console(file=out)) as display:
        display.update([record(1, 3.0)], spec=spec(run_cap=2, replicates=None))
        display.update([record(1, 3.0), record(2, 4.0)], spec=spec(run_cap=7, replicates=None))
    assert [line.split("; ")[2].partition(" (")[0] for line in out.getvalue().splitlines()] == [
        "1 of 2 ended",
        "2 of 7 ended",
    ]


def test_a_trial_that_fails_again_after_a_retry_is_told_again():
    failed = [record(4, None, state="failed", failure=Failure("bug", "broken"), ended=at) for at in (550.0, 700.0)]
    again = record(4, None, state="waiting")
    assert len(lines(failed[:1], [again], failed[1:])) == 2


def test_trials_are_only_asked_for_when_they_are_shown():
    asked, now = [], [0.0]

    def ask():
        asked.append(now[0])
        return some()

    with LiveDisplay(spec(), Console(file=io.StringIO()), per_second=2.0, clock=lambda: now[0]) as display:
        for tick in range(8):
            now[0] = tick / 10
            display.update(ask)
        assert asked == [0.0, 0.5]
    assert asked == [0.0, 0.5, 0.7]


def test_a_terminal_is_redrawn_no_more_often_than_asked_but_always_at_the_end():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with LiveDisplay(spec(), console, per_second=2.0, clock=lambda: now[0]) as display:
        display.update(some()[:1])
        first = out.getvalue()
        display.update(some()[:2])
        assert out.getvalue() == first
        now[0] = 0.6
        display.update(some()[:3])
        assert len(out.getvalue()) > len(first)
        display.update([*some(), record(9, 0.25)])
    assert "best 0.25 (trial 9)" in out.getvalue()


def test_the_same_picture_is_not_drawn_again():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with LiveDisplay(spec(), console, clock=lambda: now[0]) as display:
        display.update(some(), wall_seconds=1.0)
        drawn = out.getvalue()
        now[0] = 60.0
        display.update(some(), wall_seconds=61.0)
        assert out.getvalue() == drawn


def test_a_reason_with_brackets_is_shown_as_it_is():
    out = io.StringIO()
    broken = record(1, None, state="failed", failure=Failure("bug", "KeyError: [bold]x[/bold]"))
    with LiveDisplay(spec(), Console(file=out, width=40)) as display:
        display.update([broken])
    assert "KeyError: [bold]x[/bold]" in out.getvalue()


class Outputs:
    """What a notebook shows of `IPython.display`: one entry an output, as it stands at the end."""

    def __init__(self):
        self.shown, self.updates = [], 0

    def display(self, page, display_id):
        assert display_id is True
        self.shown.append(page)
        return self

    def update(self, page):
        self.shown[-1] = page
        self.updates += 1


def test_a_notebook_has_one_output_that_is_redrawn_and_no_line_a_trial(monkeypatch):
    outputs, out, now = Outputs(), io.StringIO(), iter(range(1000))
    fake = types.SimpleNamespace(display=outputs.display, HTML=str)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=fake))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    console = Console(file=out, force_jupyter=True, width=300)
    with LiveDisplay(spec(), console, clock=lambda: next(now)) as display:
        assert display.redraws
        for count in (1, 2, 2, 4):
            display.update(some()[:count], state="running")
    (page,) = outputs.shown
    assert outputs.updates == 2  # the same picture again would only flicker
    assert out.getvalue() == ""
    assert "diverged" in page
    assert "best 3 (trial 1)" in page
    shown = re.sub("<[^>]*>", "", page).splitlines()
    assert max(map(len, shown)) <= 100
