import dataclasses
import itertools
import json
import random
import re
from html.parser import HTMLParser

import pytest

from orchestrator.paths import SweepPaths
from orchestrator.report.html import find_images, write_report
from orchestrator.report.parts import FinalTraining
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials

SECTIONS = [
    "summary",
    "leaderboard",
    "history",
    "curves",
    "parallel",
    "importance",
    "slices",
    "contours",
    "samples",
    "final",
    "failures",
    "cost",
    "timeline",
    "environment",
    "reproduce",
]
NASTY = "<script>alert('x')</script> & \"quotes\" </script>"


class Page(HTMLParser):
    """What a browser would see: text by section, tags, the charts' data, remote addresses."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.sections, self.charts, self.sources, self.scripts, self.open = {}, [], [], 0, []
        self.where, self.by_section, self.labels = None, {}, []
        self.feed(text)

    def charts_in(self, section):
        return [json.loads(self.charts[index]) for index in self.by_section.get(section, [])]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "section":
            self.where = attrs["id"]
            self.sections[self.where] = ""
        self.labels += (
            [attrs.get("aria-label") or attrs.get("data-label")] if {"data-chart", "data-parallel"} & set(attrs) else []
        )
        self.sources += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "script":
            self.scripts += 1
            if attrs.get("type") == "application/json":
                self.charts.append("")
                self.by_section.setdefault(self.where, []).append(len(self.charts) - 1)
        self.open.append((tag, attrs))

    def handle_data(self, data):
        tag, attrs = next(((t, a) for t, a in reversed(self.open) if t not in ("meta", "link", "img", "br")), ("", {}))
        if tag == "script":
            if attrs.get("type") == "application/json":
                self.charts[-1] += data
        elif self.where:
            self.sections[self.where] += data

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass


def page_of(tmp_path, some, spec_=None, **more):
    out = write_report(spec_ or spec(), some, out=tmp_path / "deep" / "report.html", now=1.7e9, **more)
    text = out.read_text(encoding="utf-8")
    assert len(text.encode()) < 8e6
    page = Page(text)
    assert list(page.sections) == SECTIONS
    assert all(body.strip() for body in page.sections.values())
    for chart in page.charts:
        json.loads(chart)
    return page, text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pictures = tmp_path_factory.mktemp("pictures")
    plan = {"trials": 24, "estimate": {"trainings": 33, "steps": 90000.0, "work_seconds": 6000.0, "gpu_hours": None}}
    return page_of(
        pictures,
        trials(),
        plan=plan,
        images={"22": picture(pictures / "a.png"), "21": picture(pictures / "b.png")},
        environment={"code": "ab12", "torch": "2.13.0", "device": None},
        run_ids={"22": "run-22"},
        state="finished",
        wall_seconds=2900.0,
    )


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def picture(file, size=(80, 80)):
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40, 90, 200)).save(file)
    return file


def test_every_section_says_something_and_charts_are_data(whole):
    page, _ = whole
    assert page.sections["summary"].startswith("SummaryTrial 22 is best, with eval/fid_1nfe 2.43 ± 0.11 over 4 seeds")
    counts = {"history": 2, "curves": 1, "parallel": 1, "importance": 1, "slices": 6, "contours": 6, "timeline": 1}
    assert {section: len(charts) for section, charts in page.by_section.items()} == counts
    assert len(page.labels) == len(page.charts)
    assert all(page.labels)  # each says what it shows, for those who do not see it
    assert "2.64 ± 0.19" in page.sections["leaderboard"]


def test_nothing_is_fetched_from_anywhere(whole):
    page, text = whole
    assert [s for s in page.sources if not s.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\(", text[: text.index("<body>")])


def test_the_curves_hold_stops_failures_and_a_band_over_seeds(whole):
    page, _ = whole
    (curves,) = page.charts_in("curves")
    by_name = {trace.get("name"): trace for trace in curves["data"]}
    assert {"trial 22 (best)", "trial 14", "finished", "stopped early", "failed", "stopped early (end)"} <= set(by_name)
    assert set(by_name["stopped early (end)"]["x"]) == {1500}
    assert len(by_name["stopped early (end)"]["x"]) == 8
    assert len(by_name["failed (end)"]["x"]) == 4
    assert any(trace.get("fill") == "toself" for trace in curves["data"])
    assert [shape["x0"] for shape in curves["layout"]["shapes"]] == [500, 1500]
    assert by_name["trial 22 (best)"]["y"][-1] == pytest.approx(2.43151, rel=1e-4)
    assert "500: 0.9" in page.sections["curves"]


def test_the_strongest_line_of_the_parallel_coordinates_is_the_best_trial(whole):
    (found,) = whole[0].charts_in("parallel")
    names = [axis["name"] for axis in found["axes"]]
    assert names[0] == "fid_1nfe"
    assert sorted(names[1:]) == ["kappa", "law", "lr", "mean", "power", "scale"]
    assert len(found["lines"]) == 20
    assert (found["lines"][-1]["trial"], found["lines"][-1]["shade"]) == ("22", 0)
    assert found["lines"][0]["shade"] == 1
    for line in found["lines"]:  # each line's own metric stands on it
        metric = next(t.metric for t in trials() if t.id == line["trial"])
        assert float(line["text"][0]) == pytest.approx(metric, rel=1e-3)
        assert all(at is None or 0 <= at <= 1 for at in line["at"])


def test_a_parameter_that_does_not_exist_has_no_place_on_its_axis(whole):
    (found,) = whole[0].charts_in("parallel")
    law, mean = ([axis["name"] for axis in found["axes"]].index(name) for name in ("law", "mean"))
    assert [axis["absent"] for axis in found["axes"]] == [index == mean for index in range(7)]
    for line in found["lines"]:
        assert (line["text"][law] == "uniform") == (line["at"][mean] is None)
        assert (line["text"][mean] == "does not exist") == (line["at"][mean] is None)


def test_the_history_follows_the_best_that_had_finished(whole):
    history, spread = whole[0].charts_in("history")
    best = next(trace for trace in history["data"] if trace["name"] == "best finished so far")
    assert best["y"] == sorted(best["y"], reverse=True)
    assert best["y"][-1] == pytest.approx(min(t.metric for t in trials() if t.replicate == 0 and t.metric), rel=1e-5)
    finished, every = spread["data"]
    assert (len(finished["x"]), len(every["x"])) == (12, 20)
    assert finished["x"] == sorted(finished["x"])
    assert finished["y"][-1] == 1


def test_the_timeline_has_each_run_once_and_no_two_at_a_time_in_a_row(whole):
    (figure,) = whole[0].charts_in("timeline")
    bars = [bar for trace in figure["data"] for bar in zip(trace["y"], trace["base"], trace["x"], strict=True)]
    assert len(bars) == len(trials())
    for row in {row for row, _, _ in bars}:
        spans = sorted((start, start + length) for r, start, length in bars if r == row)
        assert all(end <= start + 1e-4 for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_final_training_is_drawn_against_its_trial(tmp_path):
    trial = next(t for t in trials() if t.id == "22")
    longer = {step: row[METRIC] for step, row in trial.reports.items()} | {9000: 1.75}
    final = FinalTraining(name="digits-22", trial="22", curve=longer, steps=9000, told="reproduced the trial exactly")
    page, _ = page_of(tmp_path, trials(), finals=[final])
    (figure,) = page.charts_in("final")
    of_trial, of_final = figure["data"]
    assert of_final["y"][:-1] == of_trial["y"]
    assert (of_final["x"][-1], of_final["y"][-1]) == (9000, 1.75)
    assert "Trial 22, 9000 steps, eval/fid_1nfe 1.75; reproduced the trial exactly." in page.sections["final"]


def luminance(colour):
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_what_it_is_written_on_light_and_dark(whole):
    style = whole[1][: whole[1].index("</style>")]
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root[^{]*\{([^}]*)\}", style)]
    assert len(themes) == 2
    for theme in themes:
        for ink, paper in [
            *((ink, paper) for ink in ("ink", "muted", "good") for paper in ("page", "surface")),
            *((state, "soft") for state in ("good", "pruned", "failed", "muted")),
        ]:
            bright, dim = sorted((luminance(theme[ink]), luminance(theme[paper])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)  # WCAG 2, level AA


def test_slices_show_each_outcome_with_its_own_mark(whole):
    first, *others = whole[0].charts_in("slices")
    assert [trace["name"] for trace in first["data"]] == ["finished", "stopped early", "best", "diverged"]
    assert first["layout"]["xaxis"]["type"] == "log"
    assert all(other["layout"]["yaxis"] == first["layout"]["yaxis"] for other in others)
    best = next(t for t in trials() if t.id == "22")
    assert first["data"][2]["x"][0] == pytest.approx(best.values["optimizer.lr"], rel=1e-5)


def test_contours_are_drawn_for_pairs_of_what_matters(whole):
    titles = set()
    figures = whole[0].charts_in("contours")
    for figure, ranks in zip(figures[:3], figures[3:], strict=True):
        assert figure["data"][0]["type"] == "contour"
        for axis in ("xaxis", "yaxis"):
            assert ranks["layout"][axis].get("type") == figure["layout"][axis].get("type")
        assert len(ranks["data"][0]["marker"]["color"]) == 20
        titles.add((figure["layout"]["xaxis"]["title"]["text"], figure["layout"]["yaxis"]["title"]["text"]))
    assert len(titles) == 3
    assert all("optimizer.lr" in pair or "objective.guidance.scale" in pair for pair in titles)


def test_failures_say_class_reason_log_and_how_to_run_them_alone(whole):
    text = whole[0].sections["failures"]
    for kind in ("diverged: 1 trial", "oom: 1 trial", "lost: 1 trial", "bug: 1 trial"):
        assert kind in text
    assert "ValueError: shape mismatch in <Head & Tail>" in text
    assert "meansweep rerun digits-guidance 16 --inline" in text
    assert "trials/16/log.txt" in text


def test_cost_is_compared_with_the_plan(whole):
    text = whole[0].sections["cost"]
    assert re.search(r"configurations\s*24\s*24\s*100%", text)
    assert re.search(r"optimiser steps\s*90,000\s*110,500\s*123%", text)
    assert "lost and repeated work" in text
    assert "Budget: GPU-hours 40, wall clock 12h." in text


def test_environment_and_reproduction(whole):
    page, _ = whole
    assert "2.13.0" in page.sections["environment"]
    assert "None" not in page.sections["environment"]
    text = page.sections["reproduce"]
    assert "meansweep best digits-guidance -o best.yaml" in text
    assert "MLflow run run-22" in text
    assert "method: tpe" in text


def test_pictures_are_embedded_and_large_ones_made_smaller(tmp_path):
    from PIL import Image

    noise = Image.frombytes("RGB", (700, 700), random.Random(0).randbytes(700 * 700 * 3))
    noise.save(tmp_path / "large.png")
    gone = tmp_path / "gone.png"
    page, text = page_of(tmp_path, trials(), images={"22": tmp_path / "large.png", "14": gone})
    sources = [source for source in page.sources if source.startswith("data:image/png")]
    assert len(sources) == 1
    assert len(sources[0]) < 1_000_000
    assert "trial 14: no picture" in page.sections["samples"]
    assert len(text) < 7e6


def test_the_text_of_a_user_is_text(tmp_path):
    some = trials(30)
    for place, one in enumerate(some[:30]):
        some[place] = dataclasses.replace(one, values={**one.values, NASTY: NASTY + "!" * (place % 3)})
    some[0] = dataclasses.replace(some[0], labels={"drift": [NASTY]})
    some.append(record(90, None, state="failed", failure=Failure("bug", NASTY, traceback=NASTY, log=NASTY)))
    page, text = page_of(tmp_path, some, spec(description=NASTY), environment={NASTY: NASTY})
    assert NASTY not in text
    plain_scripts = 2
    assert page.scripts == plain_scripts + len(page.charts)
    assert NASTY in page.sections["failures"]
    assert NASTY in page.sections["environment"]
    by_plotly = [name for name in page.by_section if name != "parallel"]  # plotly.js reads markup in texts
    texts = [text for name in by_plotly for chart in page.charts_in(name) for text in strings(chart)]
    assert not [text for text in texts if "<script" in text]
    assert [text for text in texts if "&lt;script&gt;alert" in text]


def test_an_empty_sweep_has_a_report_too(tmp_path):
    page, _ = page_of(tmp_path, [])
    assert page.charts == []
    assert "No trial has run yet." in page.sections["summary"]
    assert "No trial failed." in page.sections["failures"]


@pytest.mark.parametrize(
    "some",
    [
        [record(1, None, state="running", steps=0)],
        [record(1, None, state="failed", failure=Failure("oom", "out"), steps=0)],
        [record(1, 3.0)],
        [record(1, 3.0), record(2, 3.0, state="running", steps=500)],
        [record(i, 3.0) for i in range(12)],
        [record(i, -3.0 + i, values={"optimizer.lr": 1e-3, "model.depth": i}) for i in range(12)],
    ],
    ids=["running", "failed", "one", "two", "all equal", "values below zero and an unknown key"],
)
def test_young_and_odd_sweeps(tmp_path, some):
    page, _ = page_of(tmp_path, some)
    assert page.sections["leaderboard"]


def test_several_metrics_show_their_front(tmp_path):
    metrics = (Metric(name=METRIC), Metric(name="eval/accuracy", goal="maximize"))
    rng = random.Random(1)
    some = []
    for i in range(15):
        a, b = rng.random(), rng.random()
        values = {"optimizer.lr": 1e-4 * (i + 1)}
        some.append(record(i, a, values=values, reports={4500: {METRIC: a, "eval/accuracy": b}}))
    page, _ = page_of(tmp_path, some, spec(metrics=metrics))
    front = json.loads(page.charts[0])["data"][-1]
    assert front["name"] == "Pareto front"
    assert front["y"] == sorted(front["y"])
    assert "Pareto front" in page.sections["summary"]


def test_maximising_puts_the_largest_first(tmp_path):
    values = [{"optimizer.lr": 1e-4 * (i + 1), "objective.weight.power": i % 5 / 4} for i in range(20)]
    some = [record(i, float(i), values=one) for i, one in enumerate(values)]
    page, _ = page_of(tmp_path, some, spec(metrics=(Metric(name=METRIC, goal="maximize"),)))
    assert page.sections["summary"].startswith("SummaryTrial 19 is best")
    assert page.charts_in("parallel")[0]["lines"][-1]["trial"] == "19"
    best = next(t for t in page.charts_in("history")[0]["data"] if t["name"] == "best finished so far")
    assert best["y"] == sorted(best["y"])
    assert best["y"][-1] == 19


def test_a_thousand_trials_stay_small(tmp_path):
    _, text = page_of(tmp_path, trials(1000))
    assert len(text) < 7e6
    assert 'data-shown="15"' in text


def test_the_pictures_of_the_best_and_the_worst_are_found(tmp_path):
    paths = SweepPaths(tmp_path)
    for trial in ("22", "14", "1", "21", "17"):
        for step in (500, 4500):
            picture(paths.trial(trial).images / f"samples-{step:08d}.png", (8, 8))
    rows = leaderboard(spec(), trials())
    found = find_images(paths, rows, most=2)
    assert list(found) == [
        "22",
        "14",
        "1",
        "21",
    ]  # 1: the worst that finished; 21: of all
    assert all(file.name == "samples-00004500.png" for file in found.values())
    assert find_images(SweepPaths(tmp_path / "nothing"), rows) == {}


def unstable():
    """A stable configuration, and a better one of which a seed collapsed."""
    shaky = [record("1", 2.4), record("1.1", 2.1, seed=1), record("1.2", 87.0, seed=2)]
    return [*shaky, record("2", 2.8), record("2.1", 2.6, seed=1), record("2.2", 2.9, seed=2)]


def test_an_unstable_configuration_is_shown_as_such_by_the_picture_and_curve_of_its_bad_seed(tmp_path):
    paths = SweepPaths(tmp_path)
    for trial in ("1", "1.2", "2"):
        picture(paths.trial(trial).images / "samples-00004500.png", (8, 8))
    found = find_images(paths, leaderboard(spec(), unstable()))
    assert {trial: file.parts[-3] for trial, file in found.items()} == {"2": "2", "1": "1.2"}
    page, _ = page_of(tmp_path, unstable(), images=found)
    assert page.sections["summary"].startswith("SummaryTrial 2 is best, with eval/fid_1nfe 2.77 ± 0.38 over 3 seeds")
    assert "meansweep best digits-guidance -o best.yaml" in page.sections["summary"]
    assert "2.1 to 87" in page.sections["leaderboard"]
    assert "seed 2 collapsed (87)" in page.sections["samples"]
    (mark,) = [trace for trace in page.charts_in("curves")[0]["data"] if trace.get("name") == "collapsed seed (end)"]
    assert mark["text"] == ["trial 1.2 collapsed seed"]


def test_the_metrics_axis_of_the_parallel_coordinates_is_logarithmic_where_values_differ_a_lot(tmp_path):
    some = [record(i, 10.0**i, values={"optimizer.lr": 1e-4 * i}) for i in (1, 2, 3)]
    page, _ = page_of(tmp_path, some)
    (found,) = page.charts_in("parallel")
    assert sorted(line["at"][0] for line in found["lines"]) == [0, 0.5, 1]
    ticks = {text: place for place, text in found["axes"][0]["ticks"]}
    assert (ticks["10"], ticks["100"], ticks["1000"]) == (0, 0.5, 1)
