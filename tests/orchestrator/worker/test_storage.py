"""Checkpoints in a bucket: whose they are, and what happens while the bucket is away."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_core.training.checkpoint import CheckpointError
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, TrialPaths
from orchestrator.runners.inline import run_inline
from orchestrator.worker import storage
from orchestrator.worker.checkpoints import CheckpointStore
from orchestrator.worker.failure_kinds import classify
from orchestrator.worker.storage import StorageError, check_writable
from orchestrator.worker.trial_loop import run_trial
from tests.orchestrator import toy
from tests.orchestrator.worker.test_trial_loop import assignment


def finish(engine):
    with engine.ledger:
        run_inline(engine)
    return engine.ledger.trials()


def test_two_homes_with_one_bucket_and_one_name_share_no_checkpoint(tmp_path, bucket):
    spec = toy.spec(toy.sweep(run_cap=1))
    first, second = (finish(start_sweep(Home(tmp_path / home), spec)) for home in ("a", "b"))
    places = [trials[0].checkpoint for trials in (first, second)]
    ids = [Ledger.open(Home(tmp_path / home).sweep("toy")).id for home in ("a", "b")]
    assert ids[0] != ids[1]
    assert all(f"/toy-{id}/0/" in place for id, place in zip(ids, places, strict=True))
    with pytest.raises(CheckpointError, match="belongs to another sweep"):
        CheckpointStore.at(TrialPaths(tmp_path), "toy", "0", ids[0]).load(places[1])


def test_a_name_that_starts_anew_is_another_sweep(tmp_path):
    import shutil

    home, spec = Home(tmp_path), toy.spec(toy.sweep(run_cap=1))
    [old] = finish(start_sweep(home, spec))
    kept = tmp_path / "kept"
    shutil.copytree(old.checkpoint, kept)
    before = Ledger.open(home.sweep("toy")).id
    shutil.rmtree(home.sweep("toy").root)
    finish(start_sweep(home, spec))
    ledger = Ledger.open(home.sweep("toy"))
    assert ledger.id != before
    with pytest.raises(CheckpointError, match="belongs to another sweep"):
        CheckpointStore.at(home.sweep("toy").trial("0"), "toy", "0", ledger.id).load(str(kept))


def test_a_sweep_of_a_release_without_ids_gets_one_and_goes_on_from_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("MEANSWEEP_STORAGE", f"file://{tmp_path}/bucket")
    home, spec = Home(tmp_path), toy.spec(toy.sweep(run_cap=1))
    monkeypatch.setattr("orchestrator.ledger.ledger.new_id", str)  # as it was: none
    engine = start_sweep(home, spec)
    work = engine.next()
    reports = run_trial(work)
    engine.report("0", next(reports))
    reports.close()
    engine.ledger.close()
    assert Path(tmp_path, "bucket", "toy", "0").is_dir()
    monkeypatch.undo()
    monkeypatch.setenv("MEANSWEEP_STORAGE", f"file://{tmp_path}/bucket")
    assert Ledger.open(home.sweep("toy")).id == ""
    [trial] = finish(resume_sweep(home, "toy"))
    id = Ledger.open(home.sweep("toy")).id
    assert trial.state.value == "finished"
    assert [attempt.kind for attempt in trial.attempts] == []
    assert f"/toy-{id}/0/" in trial.checkpoint
    log = home.sweep("toy").trial("0").log.read_text()
    assert "attempt 0: from step 0" in log
    assert f"attempt 1: from step {work.steps[0]}" in log
    assert Path(
        tmp_path, "bucket", "toy", "0", f"step-{work.steps[0]:08d}"
    ).is_dir()  # another home may have written it


def test_a_bucket_that_is_away_for_a_while_costs_a_trial_nothing(tmp_path, bucket, monkeypatch):
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 4:
            bucket.start()

    monkeypatch.setattr(storage._patiently, "__kwdefaults__", {**storage._patiently.__kwdefaults__, "sleep": nap})
    reports = run_trial(assignment(tmp_path, steps=(1, 2, 3)))
    next(reports)
    bucket.stop()
    assert [report.step for report in reports] == [2, 3]
    assert naps[:4] == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("error", [OSError("SlowDown (503)"), ValueError("EndpointConnectionError"), Exception("?")])
def test_what_fails_in_the_store_is_infrastructure_whatever_its_type(tmp_path, bucket, monkeypatch, error):
    import s3fs

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(storage, "PATIENCE", 0.0)
    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", fail)
    with pytest.raises(StorageError) as caught:
        list(run_trial(assignment(tmp_path)))
    assert classify(caught.value).kind == "infrastructure"


def test_a_full_or_read_only_disk_below_the_checkpoints_is_infrastructure(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("orchestrator.worker.checkpoints.save_checkpoint", fail)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        list(run_trial(assignment(tmp_path)))
    assert classify(caught.value).kind == "infrastructure"


def test_a_deletion_that_fails_is_a_warning_and_is_made_up_for(tmp_path, bucket, monkeypatch, caplog):
    import s3fs

    delete = s3fs.S3FileSystem.rm
    work = replace(assignment(tmp_path, steps=(1, 2, 3, 4), x=0.0), goal="minimize")
    reports = run_trial(work)
    with caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            patch.setattr(s3fs.S3FileSystem, "rm", lambda *args, **options: 1 / 0)
            for _ in range(3):
                next(reports)
        assert [report.step for report in reports] == [4]
    assert s3fs.S3FileSystem.rm is delete
    steps = {name.split("/")[-2] for name in bucket.names("sweeps/s")}
    assert len(steps) <= 3


def test_a_place_that_takes_no_checkpoint_is_told_with_the_reason(tmp_path, bucket, monkeypatch):
    check_writable(bucket.url)
    assert bucket.names() == []
    with pytest.raises(StorageError, match="no bucket 'typo'"):
        check_writable("s3://typo/prefix")
    assert [entry["Name"] for entry in bucket.client().list_buckets()["Buckets"]] == ["team"]
    for url in ("s3:/typo", "s4://team/x", "s3://"):
        with pytest.raises(StorageError):
            check_writable(url)
    bucket.stop()
    with pytest.raises(StorageError):
        check_writable(bucket.url)
    bucket.start()


def test_a_store_of_folders_without_buckets_is_one_too(tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    url = "memory://some/sweeps"  # as sftp, ftp and WebDAV have them: their paths begin with a slash
    check_writable(url)
    (tmp_path / "a.json").write_text("{}")
    storage.upload(tmp_path, f"{url}/new/step-1")
    assert MemoryFileSystem().cat_file("/some/sweeps/new/step-1/a.json") == b"{}"
    assert storage.measure(url) == (1, 2)
    assert storage.delete(url)


@pytest.mark.parametrize("url", ["sftp://me:secret@host/x", "s3://team/x?secret=secret", "ftp://me:se/secret@host/x"])
def test_a_store_given_with_its_password_is_refused_without_showing_it(url):
    with pytest.raises(StorageError, match="HOME/credentials") as caught:
        check_writable(url)
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


def test_the_user_of_a_store_may_stand_in_a_variable(monkeypatch):
    from fsspec.implementations.ftp import FTPFileSystem

    given = {}
    monkeypatch.setattr(FTPFileSystem, "__init__", lambda self, host, **options: given.update(options, host=host))
    monkeypatch.setenv("FSSPEC_FTP_PASSWORD", "se@cret")
    with pytest.raises(StorageError):
        check_writable("ftp://host/x")  # nobody is there
    assert given == {"host": "host", "password": "se@cret"}


def test_wrong_keys_are_told_at_once(bucket, monkeypatch):
    import s3fs

    def refuse(*args, **options):
        raise PermissionError("The AWS Access Key Id you provided does not exist in our records.")

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", refuse)
    with pytest.raises(StorageError, match="Access Key Id"):
        check_writable(bucket.url)
    naps = []
    with pytest.raises(StorageError):
        storage._patiently(refuse, "write", sleep=naps.append)
    assert naps == []
