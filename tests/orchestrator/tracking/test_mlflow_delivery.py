"""Whatever happens between an outbox and a store, the store ends up with every point exactly once."""

import hashlib
import math
import os
import resource
import time

import pytest

from orchestrator.tracking import mlflow_store
from orchestrator.tracking.mlflow_delivery import Delivery, Unsendable, image_stem, metric_name
from orchestrator.tracking.mlflow_store import Sent, Store, connect, sending
from orchestrator.tracking.mlflow_sync import check, sync
from orchestrator.tracking.outbox import Outbox, Record
from orchestrator.tracking.sender import LAST_CHANCES, Sender
from tests.orchestrator.mlflow_stores import made_by_mlflow, picture, read_back, sqlite_store

pytestmark = pytest.mark.mlflow


@pytest.fixture
def store(tmp_path):
    return sqlite_store(tmp_path / "store")


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "outbox", write=True)


def open_run(outbox, key, parent=None):
    outbox.append_once(key, "run", "run", 0, {"name": key, "experiment": "e", "parent": parent, "tags": {"a": "1"}})


def small_sweep(outbox, folder):
    open_run(outbox, "sweep")
    for key in ("0", "1"):
        open_run(outbox, key, "sweep")
        outbox.append(key, "params", {"params": {"lr": "0.1"}})
        outbox.append(key, "text", {"file": "config.yaml", "text": "lr: 0.1"})
        outbox.append(key, "dataset", {"name": "digits", "digest": "abc"})
        for step in (100, 200):
            outbox.append_points(key, [(step, {"loss": 1 / step, "fid": 2.0})])
            path = picture(folder / f"{key}-{step}.png")
            outbox.append_once(key, "image", "samples/1nfe", step, {"path": path})
        outbox.append(key, "status", {"status": "FINISHED"})
    outbox.append("sweep", "status", {"status": "FINISHED"})


def deliver(outbox, store):
    delivery = Delivery(outbox, store)
    while delivery.send():
        pass
    return delivery


class Flaky:
    """A client whose n-th call fails, before or after the store has carried it out."""

    def __init__(self, client, fail_at, *, after):
        self._client, self._left, self._after = client, fail_at, after

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise ConnectionError("refused")
            answer = method(*args, **kwargs)
            if self._left == 0:
                raise ConnectionError("the answer was lost")
            return answer

        return call


def test_sending_everything_again_changes_nothing(outbox, store, tmp_path):
    small_sweep(outbox, tmp_path)
    deliver(outbox, store)
    before = read_back(outbox.folder, store)
    for state in outbox.folder.glob("sent-*.json"):
        state.unlink()
    delivery = deliver(outbox, store)
    assert read_back(outbox.folder, store) == before
    assert len(delivery.runs(delivery.sent.experiments["e"])) == 3
    assert check(outbox.folder, store).complete


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_a_failure_at_any_call_is_made_good(tmp_path, after):
    outbox = Outbox(tmp_path / "outbox", write=True)
    small_sweep(outbox, tmp_path)
    store = sqlite_store(tmp_path / "store")
    client = connect(store)
    failures = 0
    for fail_at in range(1, 200, 2 if after else 5):
        for state in outbox.folder.glob("sent-*.json"):
            state.unlink()
        delivery = Delivery(outbox, store)
        delivery._client = Flaky(client, fail_at, after=after)
        try:
            while delivery.send(limit=7):
                pass
        except ConnectionError:
            failures += 1
        else:
            break
        again = Delivery(Outbox(outbox.folder), store)  # what a new process knows
        again._client = client
        while again.send(limit=7):
            pass
        if failures % 5 == 1:
            assert check(outbox.folder, store).complete
    assert failures > 4
    report = check(outbox.folder, store)
    assert report.complete, report
    assert report.points == 8


def test_a_run_that_a_slow_server_makes_late_is_deleted(outbox, store):
    open_run(outbox, "sweep")
    outbox.append_points("sweep", [(1, {"best": 2.0})])
    delivery = deliver(outbox, store)
    first = next(outbox.records())
    tags = {**first.data["tags"], "meansweep.outbox": outbox.id, "meansweep.run": "sweep"}
    late = delivery.client.create_run(delivery.sent.experiments["e"], tags=tags).info.run_id
    report = check(outbox.folder, store)
    assert (report.doubles, report.complete) == (1, False)
    assert "1 duplicate runs" in str(report)
    sync(outbox.folder, store)
    assert check(outbox.folder, store).complete
    assert delivery.client.get_run(late).info.lifecycle_stage == "deleted"


def test_what_the_store_refuses_is_noted_and_holds_up_nothing(outbox, store, tmp_path):
    open_run(outbox, "sweep")
    outbox.append("sweep", "params", {"params": {"lr": "0.1"}})
    deliver(outbox, store)
    outbox.append("sweep", "params", {"params": {"lr": "0.2"}})  # MLflow's parameters do not change
    outbox.append_once("sweep", "image", "samples", 1, {"path": str(tmp_path / "gone.png")})
    (tmp_path / "broken.png").write_text("no picture")
    outbox.append_once("sweep", "image", "samples", 2, {"path": str(tmp_path / "broken.png")})
    outbox.append_once("sweep", "file", "checkpoint", 0, {"path": str(tmp_path / "gone"), "folder": "checkpoint"})
    outbox.append_points("sweep", [(1, {"best": 2.0})])
    deliver(outbox, store)
    report = check(outbox.folder, store)
    assert [refusal["number"] for refusal in report.refused] == [3, 4, 5, 6]
    assert "Changing param values" in report.refused[0]["reason"]
    assert "gone.png" in report.refused[1]["reason"]
    assert (report.held, report.points, report.complete) == (1, 1, False)
    assert "refused: run sweep" in str(report)


def test_a_run_that_somebody_deleted_holds_up_nothing(outbox, store):
    open_run(outbox, "sweep")
    open_run(outbox, "0", "sweep")
    delivery = deliver(outbox, store)
    delivery.client.delete_run(delivery.sent.runs["0"])
    outbox.append_points("0", [(1, {"loss": 2.0})])
    outbox.append_points("sweep", [(1, {"best": 2.0})])
    deliver(outbox, store)
    report = check(outbox.folder, store)
    assert (report.held, report.points, len(report.refused)) == (1, 2, 1)
    assert report.missing == (("0", "loss", 1),)


def test_an_emptied_store_gets_everything_again(outbox, store, tmp_path):
    small_sweep(outbox, tmp_path)
    deliver(outbox, store)
    fresh = sqlite_store(tmp_path / "other")
    (tmp_path / "other" / "mlflow.db").replace(tmp_path / "store" / "mlflow.db")
    connect(store)._tracking_client.store.engine.dispose()
    assert fresh.uri != store.uri
    emptied = check(outbox.folder, store)
    assert (emptied.held, emptied.pending) == (0, len(list(outbox.records())))
    sync(outbox.folder, store)  # though there is nothing new
    assert check(outbox.folder, store).complete


def test_another_store_gets_the_whole_history(outbox, store, tmp_path):
    small_sweep(outbox, tmp_path)
    deliver(outbox, store)
    other = sqlite_store(tmp_path / "other")
    assert not check(outbox.folder, other).complete
    assert sync(outbox.folder, other) == outbox.last
    assert check(outbox.folder, other).complete
    assert check(outbox.folder, store).complete


def test_pictures_are_found_after_the_home_was_moved(outbox, store, tmp_path):
    open_run(outbox, "sweep")
    outbox.append_once("sweep", "image", "samples/1nfe", 100, {"path": picture(tmp_path / "a.png")})
    run_id = deliver(outbox, store).sent.runs["sweep"]
    home = (tmp_path / "store").rename(tmp_path / "new place")
    client = connect(Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts"))
    assert client.get_run(run_id).info.artifact_uri.startswith((home / "artifacts" / "e").as_uri() + "/")
    assert len(client.list_artifacts(run_id, "images")) == 2


@pytest.mark.parametrize("release", ["this", "before"])
def test_a_home_that_was_moved_has_sent_what_it_had_sent(tmp_path, release):
    home = tmp_path / "home"
    outbox = Outbox(home / "sweeps" / "s" / "outbox", write=True)
    small_sweep(outbox, tmp_path)
    there = sqlite_store(home)
    sent = deliver(outbox, there).sent
    outbox.close()
    if release == "before":
        name = there.name
        sent.path.rename(sent.path.with_name(f"sent-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"))
    moved = home.rename(tmp_path / "elsewhere")
    folder = moved / "sweeps" / "s" / "outbox"
    store = Store(f"sqlite:///{moved / 'mlflow.db'}", moved / "artifacts")
    assert Sent.load(folder, store).runs == sent.runs
    found = check(folder, store)
    assert found.complete, str(found)
    assert sync(folder, store) == 0


def test_a_deleted_experiment_is_brought_back(outbox, store):
    client = connect(store)
    client.delete_experiment(client.create_experiment("e"))
    open_run(outbox, "sweep")
    deliver(outbox, store)
    assert client.get_experiment_by_name("e").lifecycle_stage == "active"


def test_check_finds_missing_doubled_changed_and_foreign_points(outbox, store):
    open_run(outbox, "sweep")
    outbox.append_points("sweep", [(step, {"loss": float(step)}) for step in (1, 2, 3)])
    delivery = deliver(outbox, store)
    run_id = delivery.sent.runs["sweep"]
    delivery.client.log_metric(run_id, "loss", 2.0, step=2, timestamp=5)
    delivery.client.log_metric(run_id, "other", 1.0, step=9)
    outbox.append_points("sweep", [(4, {"loss": 4.0})])
    report = check(outbox.folder, store)
    assert report.doubled == (("sweep", "loss", 2),)
    assert report.missing == (("sweep", "loss", 4),)
    assert (report.extra, report.pending, report.held, report.points) == (1, 1, 2, 4)
    for words in ("holds 2 of 4", "missing: sweep loss at step 4", "more than once: sweep loss at step 2", "1 events"):
        assert words in str(report)


def test_thousands_of_points_of_one_record_go_in_batches(outbox, store):
    open_run(outbox, "sweep")
    outbox.append_points("sweep", [(step, {"loss": step / 7, "fid": math.nan}) for step in range(1300)])
    outbox.append("sweep", "params", {"params": {f"p{i}": str(i) for i in range(250)}})
    delivery = Delivery(outbox, store)
    delivery._client = Flaky(delivery.client, 10**9, after=False)
    while delivery.send():
        pass
    report = check(outbox.folder, store)
    assert report.complete
    assert report.points == 2600
    calls = 10**9 - delivery._client._left
    assert calls < 12  # for the run two or three, three for the parameters, three for the points; not one a point


def test_one_sender_at_a_time(outbox, store):
    open_run(outbox, "sweep")
    with sending(outbox.folder), pytest.raises(BlockingIOError):
        sync(outbox.folder, store)
    assert sync(outbox.folder, store) == 1


def test_a_store_that_is_down_is_one_kind_of_error_and_named_without_its_password(outbox):
    open_run(outbox, "sweep")
    down = Store("http://somebody:secret@127.0.0.1:9")
    for call in (lambda: sync(outbox.folder, down), lambda: check(outbox.folder, down), down.ping):
        with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9") as caught:
            call()
        assert "secret" not in str(caught.value)


def test_a_data_base_that_a_full_disk_left_half_made_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "_make_whole", made_by_mlflow)
    file = tmp_path / "mlflow.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # MLflow's empty data base is several times larger
    try:
        with pytest.raises(Exception, match=r"(?i)disk|full|I/O"):
            connect(Store(f"sqlite:///{file}")).search_experiments()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.lock"]
    (tmp_path / ".mlflow.db-abc").mkdir()  # as a kill may leave it
    assert [each.name for each in connect(Store(f"sqlite:///{file}")).search_experiments()] == ["Default"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_events_are_on_the_disk_before_they_are_sent(outbox, store, monkeypatch):
    open_run(outbox, "sweep")
    delivery, order = Delivery(outbox, store), []
    sync_to_disk, apply = os.fsync, delivery._apply
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("disk"), sync_to_disk(descriptor)))
    monkeypatch.setattr(delivery, "_apply", lambda records: (order.append("sent"), apply(records)))
    assert delivery.send() == 1
    assert order[:2] == ["disk", "sent"]


def test_the_position_is_kept_per_store_not_per_password(tmp_path):
    one, two = Store("http://a:b@host:1/x"), Store("http://c:d@host:1/x")
    assert one.digest == two.digest != Store("http://host:2/x").digest
    Sent(tmp_path / f"sent-{one.digest}.json", one.name, position=3).save()
    assert Sent.load(tmp_path, two).position == 3
    assert "b@" not in (tmp_path / f"sent-{one.digest}.json").read_text()


def test_the_store_is_the_environments_or_the_homes(tmp_path, monkeypatch):
    from orchestrator.paths import Home

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Store.of(Home(tmp_path)) == Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:1")
    assert Store.of(Home(tmp_path)) == Store("http://host:1", None)


def test_pictures_are_named_as_mlflow_names_them(outbox, store, tmp_path):
    from PIL import Image

    open_run(outbox, "sweep")
    path = picture(tmp_path / "a.png")
    outbox.append_once("sweep", "image", "samples/1nfe", 700, {"path": path})
    delivery = deliver(outbox, store)
    run_id = delivery.sent.runs["sweep"]
    record = list(outbox.records())[-1]
    with Image.open(path) as image:
        delivery.client.log_image(run_id, image, key="samples/1nfe", step=700, timestamp=record.time)
    names = sorted(entry.path for entry in delivery.client.list_artifacts(run_id, "images"))
    assert len(names) == 4
    own = [name for name in names if image_stem(outbox.id, record) in name]
    theirs = [name for name in names if name not in own]
    unique = len("00000000-0000-0000-0000-000000000000")

    def shape(name):
        return name.rpartition("+timestamp+")[0], name.count("+"), len(name), name.partition(".")[2]

    assert sorted(map(shape, own)) == sorted(map(shape, theirs))
    assert all(len(name) > unique for name in own)


def test_names_that_mlflow_would_refuse_are_changed():
    assert metric_name("eval/acc@1 (top-5)é") == "eval/acc_1 _top-5__"
    assert metric_name("eval/fid_1nfe") == "eval/fid_1nfe"
    assert len(metric_name("x" * 300)) == 250


def test_events_of_a_run_without_a_beginning_are_refused(outbox, store):
    outbox.append("7", "tags", {"tags": {"a": "1"}})
    delivery = deliver(outbox, store)
    assert "not its beginning" in delivery.sent.refused[0]["reason"]
    with pytest.raises(Unsendable):
        delivery._apply([Record(number=1, time=int(time.time() * 1000), run="7", what="tags", data={"tags": {}})])


@pytest.mark.parametrize(("failures", "sent"), [(LAST_CHANCES - 1, True), (LAST_CHANCES, False)])
def test_a_sender_that_is_to_end_tries_again_where_the_store_is_busy_for_a_moment(outbox, failures, sent):
    class Busy(Delivery):
        def __init__(self):
            self.outbox, self.attempts = outbox, 0

        def send(self):
            self.attempts += 1
            if self.attempts <= failures:
                raise OSError("database is locked")
            return 0

        pending = 0

    sender = Sender(Busy(), interval=0.01)
    sender._closing = True
    sender.start()
    sender.join(10)
    assert not sender.is_alive()
    assert (sender.problem is None) == sent
