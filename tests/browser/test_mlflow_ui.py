"""A person opens MLflow: the run table, the compare view's charts, a run's curves and pictures, the sweep's page."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_ui import server
from orchestrator.tracking.mlflow_views import runs_path, several_path, view_path
from orchestrator.tracking.tracker import MlflowTracker
from tests.browser.conftest import SHOOT, shoot
from tests.orchestrator.example_sweep import METRIC, spec, trials
from tests.orchestrator.mlflow_stores import sqlite_store

pytestmark = [pytest.mark.browser, pytest.mark.mlflow]
FIRST_VISIT_OVER = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def grid(path, noise, rng):
    """Real digits under noise: the stronger, the worse the trial."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = [digits.images[np.flatnonzero(digits.target == label)[:8]] for label in range(10)]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows]) / 16 * 255
    sheet = np.clip(sheet + rng.normal(0, 255 * noise, sheet.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST).save(path)
    return str(path)


def made_up_sweep(home, made=None, count=10):
    """Track the example sweep, or another one, with its pictures; return its name."""
    rng, made = np.random.default_rng(0), made or spec()
    tracker = MlflowTracker(home.sweep(made.name).outbox, Store.of(home), interval=0.02, strict=True)
    tracker.sweep_started(made, {"environment": {"code": "1f2e3d4"}, "plan": {"trials": 24}})
    for record in trials(count):
        tracker.trial_started(record, made.config_for(record.values, seed=record.seed))
        for step, metrics in record.reports.items():
            noise = min(0.6, metrics[METRIC] / 60)
            path = grid(home.root / "pictures" / record.id / f"{step}.png", noise, rng) if step % 1500 == 0 else None
            rows = [(at, {"train/loss": 1 + 1 / at}) for at in range(step - 400, step + 1, 100)]
            tracker.report(record.id, step, metrics, rows, {} if path is None else {"samples": path})
        tracker.trial_ended(record)
    tracker.sweep_ended("finished", {})
    assert tracker.close(60) == 0
    return made.name


@pytest.fixture(scope="module")
def shown(chromium, tmp_path_factory):
    """The URL of a server, and a client of its store, and the experiment with the sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if os.environ.get("MEANSWEEP_BROWSER_HOME"):
            home = Home(Path(os.environ["MEANSWEEP_BROWSER_HOME"]))
            name = next(home.all_sweeps()).name
        else:
            home = Home(tmp_path_factory.mktemp("home"))
            sqlite_store(home.root)
            name = made_up_sweep(home)
            made_up_sweep(home, spec(name="digits-wide"), 3)
        store = Store.of(home)
        with server(store, log=home.root / "ui.log") as (url, _):
            client = connect(store)
            yield url, client, client.get_experiment_by_name(name)


@pytest.fixture(scope="module")
def context(chromium):
    """One profile for all pages: MLflow's megabytes of JavaScript are loaded and compiled once."""
    context = chromium.new_context(viewport={"width": 1500, "height": 950})
    context.add_init_script(FIRST_VISIT_OVER)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def visitor(context):
    """A page of somebody who has never been here: MLflow remembers how a run table was last looked at."""
    page = context.new_page()
    page.add_init_script(f"if (!sessionStorage.length) {{ localStorage.clear(); {FIRST_VISIT_OVER} }}")
    yield page
    page.close()


@pytest.fixture(scope="module")
def page(context):
    """One page for all runs: going to another one changes only the part of the address after `#`, which is quick."""
    page = context.new_page()
    yield page
    page.close()


def keep(page, name, *, height=950, **part):
    """Keep a picture of the page in the documentation, when asked: of a window as high as what is worth seeing."""
    if SHOOT:
        page.set_viewport_size({"width": 1500, "height": height})
        page.wait_for_timeout(6000)  # charts fade in
        shoot(page, f"mlflow-{name}", **part)
        page.set_viewport_size({"width": 1500, "height": 950})


def runs_of(client, experiment, kind):
    return client.search_runs(
        [experiment.experiment_id], f"tags.`meansweep.kind` = '{kind}'", order_by=[f"metrics.`{METRIC}` ASC"]
    )


def run_path(experiment, run, tab=""):
    return f"/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}{tab}?workflowType=machine_learning"


def test_the_run_table_shows_the_best_trial_first_with_metric_and_parameters(shown, visitor):
    (url, client, experiment), page = shown, visitor
    page.goto(url + view_path(experiment.experiment_id))
    page.get_by_role("link", name="trial ").first.wait_for()
    shown_runs = runs_of(client, experiment, "trial") + runs_of(client, experiment, "replicate")
    best = min((run for run in shown_runs if METRIC in run.data.metrics), key=lambda run: run.data.metrics[METRIC])
    assert page.get_by_role("link", name="trial ").first.inner_text() == best.info.run_name
    heads = {head.inner_text().strip(): head.bounding_box()["x"] for head in page.locator(".ag-header-cell").all()}
    places = [heads[name] for name in (METRIC, "trial/steps", "meansweep.state", "objective.time.law")]
    assert places == sorted(places), f"the columns stand in the order {sorted(heads, key=heads.get)}"
    shown_runs += runs_of(client, experiment, "final")
    assert page.get_by_text("matching runs").inner_text().split()[0] == str(len(shown_runs))
    keep(page, "runs")


def test_the_charts_compare_all_trials(shown, visitor):
    (url, _, experiment), page = shown, visitor
    page.goto(url + view_path(experiment.experiment_id, charts=True))
    page.get_by_text("Parallel Coordinates").wait_for()
    charts = page.locator("[data-testid='experiment-view-compare-runs-chart-area']")
    for words in ("search", "eval", "samples", "train"):
        charts.get_by_text(words, exact=True).first.wait_for()
    page.get_by_text(METRIC, exact=True).first.wait_for()
    keep(page, "charts")
    charts.get_by_text("samples", exact=True).first.scroll_into_view_if_needed()
    charts.get_by_text("objective.time.mean", exact=True).first.wait_for()  # once more, with what only lognorm has
    picture = page.locator("img[src*='samples']").first
    picture.wait_for()
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.naturalWidth") > 50
    keep(page, "samples", clip={"x": 525, "y": 515, "width": 940, "height": 410})


def test_a_trials_page_has_its_curves_and_its_pictures_by_step(shown, page):
    url, client, experiment = shown
    best = runs_of(client, experiment, "trial")[0]
    page.goto(url + run_path(experiment, best, "/model-metrics"))
    page.get_by_text("fid_1nfe", exact=True).first.wait_for()
    page.get_by_text("samples", exact=True).first.scroll_into_view_if_needed()
    picture = page.locator("img[src*='samples']").first  # there before anything is touched
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 50
    slider = page.locator("[role=slider]").last
    slider.wait_for()
    slider.scroll_into_view_if_needed()
    slider.focus()
    while slider.get_attribute("aria-valuenow") != slider.get_attribute("aria-valuemax"):
        page.keyboard.press("ArrowRight")  # to the next step that has a picture
    picture = page.locator("img[src*='samples']").last
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 50
    keep(page, "trial-pictures", height=1100)


def test_a_comparison_opens_on_the_metric_and_has_the_samples(shown, visitor):
    (url, client, experiment), page = shown, visitor
    two = runs_of(client, experiment, "trial")[:2]
    page.set_viewport_size({"width": 1500, "height": 1500})  # charts below the window are not drawn
    page.goto(url + runs_path(experiment.experiment_id, [run.info.run_id for run in two], METRIC, "minimize"))
    page.get_by_text(METRIC, exact=True).first.wait_for()
    page.get_by_text("2 matching runs").wait_for()
    page.locator("img[src*='samples']").first.wait_for()
    keep(page, "compare", height=1500)


def test_a_trials_overview_has_parameters_data_and_its_sweep(shown, page):
    url, client, experiment = shown
    best = runs_of(client, experiment, "trial")[0]
    page.goto(url + run_path(experiment, best))
    page.get_by_text("Parent run", exact=True).wait_for()
    page.get_by_role("link", name=experiment.name).first.wait_for()
    text = page.locator("body").inner_text()
    for name in (experiment.name, "optimizer.lr", "seed", METRIC, "digits", "meansweep.state"):
        assert name in text


def test_the_sweeps_page_says_what_it_is_and_what_to_type(shown, page):
    url, client, experiment = shown
    (sweep,) = runs_of(client, experiment, "sweep")
    page.goto(url + run_path(experiment, sweep))
    page.get_by_text("Result").first.wait_for()
    text = page.locator("body").inner_text()
    for name in (
        "Result",
        "lowest",
        METRIC,
        "objective.guidance.scale",
        f"meansweep best {experiment.name}",
        "Child runs",
    ):
        assert name in text
    keep(page, "sweep")


def test_the_runs_of_several_sweeps_stand_in_one_table_each_with_its_sweep(shown, visitor):
    (url, client, experiment), page = shown, visitor
    if os.environ.get("MEANSWEEP_BROWSER_HOME"):
        pytest.skip("one sweep is shown")
    other = client.get_experiment_by_name("digits-wide")
    page.goto(url + several_path([experiment.experiment_id, other.experiment_id]))
    page.get_by_role("link", name="trial ").first.wait_for()
    runs = sum(
        len(runs_of(client, each, kind)) for each in (experiment, other) for kind in ("trial", "replicate", "final")
    )
    page.get_by_text(f"{runs} matching runs").wait_for()
    heads = [head.inner_text().strip() for head in page.locator(".ag-header-cell").all()]
    assert {"Experiment Name", METRIC} <= set(heads)
    text = page.locator("body").inner_text()
    assert "digits-guidance" in text
    assert "digits-wide" in text
