"""A real MLflow server with a password, and everything that can happen to it while a sweep runs."""

import time

import pytest

from orchestrator.cli import main as cli
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_removal import find_shown
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_sync import check, sync
from orchestrator.tracking.outbox import outbox_id
from orchestrator.tracking.tracker import MlflowTracker
from tests.orchestrator import toy
from tests.orchestrator.example_sweep import METRIC, record, spec
from tests.orchestrator.lifecycle import made
from tests.orchestrator.mlflow_stores import PASSWORD, USER, FaultyProxy, password_server, picture, read_back

pytest.importorskip("flask_wtf", reason="MLflow's server asks for passwords only with Flask-WTF (mlflow[auth])")
pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """The URL of an MLflow server that asks for a password."""
    with password_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def proxy(real_server):
    proxy = FaultyProxy(real_server)
    yield proxy
    proxy.close()


@pytest.fixture
def store(proxy):
    return Store(proxy.url.replace("http://", f"http://{USER}:{PASSWORD.replace(' ', '%20')}@"))


def named(name):
    return spec(name=name)


class Sweep:
    """Reports one trial step by step, and knows how long the slowest event took."""

    def __init__(self, folder, store, name):
        self.folder, self.store, self.name, self.slowest = folder, store, name, 0.0
        self.tracker = MlflowTracker(folder / "outbox", store, interval=0.02, strict=True)
        self._timed(self.tracker.sweep_started, named(name), {})
        self._timed(self.tracker.trial_started, record("7", None, state="running"), {"data": {"name": "digits"}})

    def report(self, step):
        image = picture(self.folder / f"{step}.png", shade=step % 256)
        rows = [(step - 50, {"train/loss": 2 / step}), (step, {"train/loss": 1 / step})]
        self._timed(self.tracker.report, "7", step, {METRIC: 100 / step}, rows, {"samples": image})

    def end(self, timeout):
        self._timed(self.tracker.trial_ended, record("7", 1.0, steps=300, reports={}))
        self._timed(self.tracker.sweep_ended, "finished", {})
        return self.tracker.close(timeout)

    def wait(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened: {self.tracker.problem}"
            time.sleep(0.02)

    def _timed(self, call, *args):
        begin = time.perf_counter()
        call(*args)
        self.slowest = max(self.slowest, time.perf_counter() - begin)


def assert_whole(folder, store):
    report = check(folder / "outbox", store)
    assert report.complete, report
    assert report.points == 3 + 6 + 3 + 2 + 1  # the metric, the loss, the steps, the time spent, the best


def assert_whole_with_pictures(folder, store):
    assert_whole(folder, store)
    seventh = read_back(folder / "outbox", store)["7"]
    assert seventh.status == "FINISHED"
    assert sorted(seventh.metrics[METRIC]) == sorted(seventh.images["samples/grid"]) == [100, 200, 300]
    assert sorted(seventh.metrics["train/loss"]) == [50, 100, 150, 200, 250, 300]


def test_a_server_with_a_password_gets_everything(tmp_path, store):
    sweep = Sweep(tmp_path, store, "password")
    for step in (100, 200, 300):
        sweep.report(step)
    assert sweep.end(30) == 0
    assert_whole_with_pictures(tmp_path, store)


@pytest.mark.parametrize("mood", ["refuse", "error", "mute"])
def test_an_outage_in_the_middle_is_made_good_within_the_same_run(tmp_path, store, proxy, mood):
    sweep = Sweep(tmp_path, store, f"middle-{mood}")
    sweep.report(100)
    sweep.wait(lambda: sweep.tracker.problem is None and proxy.requests > 3)
    proxy.mood = mood
    sweep.report(200)
    sweep.wait(lambda: sweep.tracker.problem)
    assert PASSWORD not in sweep.tracker.problem
    proxy.mood = "up"
    sweep.report(300)
    assert sweep.end(30) == 0
    assert sweep.slowest < 1.0
    assert_whole(tmp_path, store)


def test_an_outage_at_start_is_made_good(tmp_path, store, proxy):
    proxy.mood = "refuse"
    sweep = Sweep(tmp_path, store, "start")
    sweep.report(100)
    sweep.wait(lambda: sweep.tracker.problem)
    proxy.mood = "up"
    sweep.report(200)
    sweep.report(300)
    assert sweep.end(30) == 0
    assert sweep.slowest < 1.0
    assert_whole(tmp_path, store)


def test_an_outage_at_the_end_is_made_good_by_sync(tmp_path, store, proxy):
    sweep = Sweep(tmp_path, store, "end")
    sweep.report(100)
    sweep.wait(lambda: proxy.requests > 3)
    proxy.mood = "error"
    sweep.report(200)
    sweep.report(300)
    left = sweep.end(timeout=2.0)
    assert left > 0
    with pytest.raises(ConnectionError):
        sync(tmp_path / "outbox", store)
    proxy.mood = "up"
    assert not check(tmp_path / "outbox", store).complete
    assert sync(tmp_path / "outbox", store) > 0
    assert_whole_with_pictures(tmp_path, store)


def test_thirty_seconds_of_latency_delay_no_event_and_no_end(tmp_path, store, proxy):
    proxy.mood = 30.0
    sweep = Sweep(tmp_path, store, "slow")
    for step in (100, 200, 300):
        sweep.report(step)
    begin = time.perf_counter()
    assert sweep.end(timeout=0.5) > 0
    assert time.perf_counter() - begin < 1.0
    assert sweep.slowest < 1.0
    proxy.mood = "up"
    sweep.tracker._sender.join(20)
    assert_whole(tmp_path, store)


def test_a_wrong_password_is_an_outage_not_a_refusal(tmp_path, store, proxy):
    wrong = Store(proxy.url.replace("http://", f"http://{USER}:wrong@"))
    sweep = Sweep(tmp_path, wrong, "wrong")
    for step in (100, 200, 300):
        sweep.report(step)
    sweep.wait(lambda: sweep.tracker.problem)
    assert sweep.end(5) > 0
    with pytest.raises(ConnectionError, match="rejects this user and password"):
        sync(tmp_path / "outbox", wrong)
    assert sync(tmp_path / "outbox", store) > 0
    assert_whole(tmp_path, store)


def test_ping_knows_a_right_password_from_a_wrong_one(store, proxy):
    assert store.ping() == proxy.url
    with pytest.raises(ConnectionError, match=r"(?i)unauthorized|not authenticated|401"):
        Store(proxy.url.replace("http://", f"http://{USER}:wrong@")).ping()


def test_two_sweeps_of_one_name_on_one_server_do_not_mix(tmp_path, store):
    for folder in (tmp_path / "a", tmp_path / "b"):
        sweep = Sweep(folder, store, "same")
        for step in (100, 200, 300):
            sweep.report(step)
        assert sweep.end(30) == 0
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert_whole(folder, store)
    client = connect(store)
    experiment = client.get_experiment_by_name("same").experiment_id
    assert len(client.search_runs([experiment])) == 4


def test_a_sweep_is_removed_from_a_server_and_its_namesake_stays(tmp_path, real_server, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", real_server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD.replace("%40", "@"))
    homes = [Home(tmp_path / name) for name in ("a", "b")]
    for home in homes:
        made.sweep(home, toy.sweep(name="both", run_cap=2))
        made.training(home, f"both-{home.root.name}", "both", sweep_id=Ledger.open(home.sweep("both")).id)
    client = connect(store)
    experiment = client.get_experiment_by_name("both").experiment_id
    before = {run.info.run_id: run for run in client.search_runs([experiment])}
    assert len(before) == 8  # of each the sweep, two trials and a training
    assert cli.run(["remove", "both", "--yes", "--home", str(homes[0].root)]) == 0
    after = {run.info.run_id for run in client.search_runs([experiment])}
    own = find_shown(store, [outbox_id(folder) for folder in homes[1].root.glob("*/*/outbox")])
    assert after == {run.info.run_id for run in own.runs}
    assert len(after) == 4
    gone = [run for key, run in before.items() if key not in after]
    assert all(client.list_artifacts(run) for run in after)
    assert not any(client.list_artifacts(run.info.run_id) for run in gone)
    assert [version.name for version in client.search_model_versions("name LIKE 'both-%'")] == ["both-b"]
    assert check(homes[1].sweep("both").outbox, Store.of(homes[1])).complete
    assert cli.run(["remove", "both", "--yes", "--home", str(homes[1].root)]) == 0
    assert client.search_runs([experiment]) == []
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    assert list(client.search_registered_models("name LIKE 'both-%'")) == []
