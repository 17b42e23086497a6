"""A sweep as one file: put away and brought back, or refused; never half of it."""

import io
import json
import shutil
import tarfile

import pytest

from orchestrator.cli import main as cli
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Store
from orchestrator.tracking.mlflow_sync import check
from tests.orchestrator import toy
from tests.orchestrator.lifecycle import made


def archive(home, file, *words):
    return cli.run(["archive", "toy", "-o", str(file), *words, "--home", str(home.root)])


def restore(home, file):
    return cli.run(["restore", str(file), "--home", str(home.root)])


@pytest.fixture
def put_away(tmp_path):
    """A home with a sweep of two trials, and its archive without checkpoints."""
    home = Home(tmp_path / "home")
    made.sweep(home, toy.sweep(run_cap=2), shown=False)
    file = tmp_path / "toy.tar.gz"
    assert archive(home, file) == 0
    return home, file


def test_an_archived_sweep_comes_back_under_its_id_and_in_mlflow(tmp_path, capsys):
    home, file = Home(tmp_path / "home"), tmp_path / "out" / "toy.tar.gz"
    ledger = made.sweep(home, toy.sweep(run_cap=2))
    before = made.files(home.root)
    assert archive(home, file, "--checkpoints") == 0
    assert made.files(home.root) == before
    assert archive(home, file) == 1
    assert "exists" in capsys.readouterr().err
    assert restore(home, file) == 2
    assert "exists; it is not overwritten" in capsys.readouterr().err
    assert made.files(home.root) == before
    assert cli.run(["remove", "toy", "--yes", "--home", str(home.root)]) == 0
    assert restore(home, file) == 0
    back = Ledger.open(home.sweep("toy"))
    assert back.id == ledger.id
    assert [trial.to_dict() for trial in back.trials()] == [trial.to_dict() for trial in ledger.trials()]
    assert all(trial.checkpoint for trial in back.trials())
    assert made.synced(home, "toy") > 0
    assert len(made.shown(home)["toy"]) == 3
    assert check(home.sweep("toy").outbox, Store.of(home)).complete
    assert sorted(path.name for path in home.sweeps.iterdir()) == ["toy"]


def test_without_checkpoints_the_file_is_small_and_the_sweep_can_be_extended_where_it_comes_back(put_away, tmp_path):
    home, file = put_away
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert not [name for name in names if "checkpoint" in name or "lock" in name or "sent-" in name]
    elsewhere = Home(tmp_path / "elsewhere")
    assert restore(elsewhere, file) == 0
    assert [t.metric for t in Ledger.open(elsewhere.sweep("toy")).trials()] == [
        t.metric for t in Ledger.open(home.sweep("toy")).trials()
    ]
    words = ["--home", str(elsewhere.root)]
    assert cli.run(["extend", "1", "toy", *words]) == 0
    assert cli.run(["resume", "toy", "--inline", *words]) == 0
    assert len(Ledger.open(elsewhere.sweep("toy")).trials()) == 3


def test_checkpoints_of_a_bucket_come_back_where_they_were(tmp_path, bucket):
    home, file = Home(tmp_path / "home"), tmp_path / "toy.tar.gz"
    ledger = made.sweep(home, toy.sweep(run_cap=2), shown=False)
    names = bucket.names()
    assert archive(home, file, "--checkpoints") == 0
    assert cli.run(["remove", "toy", "--yes", "--home", str(home.root)]) == 0
    assert bucket.names() == []
    assert restore(home, file) == 0
    assert bucket.names() == names
    assert Ledger.open(home.sweep("toy")).id == ledger.id


def members(file):
    with tarfile.open(file) as tar:
        return [(m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar]


def written(file, content):
    with tarfile.open(file, "w:gz") as tar:
        for member, data in content:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))


def link(name, target):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = tarfile.SYMTYPE, target
    return found, b""


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda c: [*c, (tarfile.TarInfo("sweep/../../precious"), b"x")], "holds 'sweep/../../precious'"),
        (lambda c: [*c, (tarfile.TarInfo("/tmp/precious"), b"x")], "holds '/tmp/precious'"),
        (lambda c: [*c, (tarfile.TarInfo("elsewhere/x"), b"x")], "holds 'elsewhere/x'"),
        (lambda c: [*c, link("sweep/mine", "/etc")], "holds 'sweep/mine'"),
        (lambda c: c[1:], "is no archive of a sweep"),
        (lambda c: [(c[0][0], c[0][1].replace(b'"sweep": "toy"', b'"sweep": "../x"')), *c[1:]], "no name of one"),
        (lambda c: [(c[0][0], c[0][1].replace(b'"id": "', b'"id": "f')), *c[1:]], "and says that it is"),
        (lambda c: [(c[0][0], c[0][1].replace(b'"format": 1', b'"format": 2')), *c[1:]], "of a later version"),
        (lambda c: [(c[0][0], c[0][1].replace(b'"bytes": ', b'"bytes": 9999999999999')), *c[1:]], "free"),
        (lambda c: [(c[0][0], b"[]"), *c[1:]], "cannot be read"),
        (lambda c: [each for each in c if not each[0].name.endswith("journal.jsonl")], "cannot be read"),
    ],
)
def test_what_is_no_archive_of_a_sweep_brings_nothing(put_away, tmp_path, capsys, bad, said):
    _, file = put_away
    written(tmp_path / "bad.tar.gz", bad(members(file)))
    elsewhere = Home(tmp_path / "deep" / "home")
    assert restore(elsewhere, tmp_path / "bad.tar.gz") == 2
    assert said in capsys.readouterr().err
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("cut", [0, 1, 40, -1, -9, "text", "flipped"])
def test_a_damaged_file_brings_nothing(put_away, tmp_path, capsys, cut):
    _, file = put_away
    data = bytearray(file.read_bytes())
    if cut == "flipped":
        data[-6] ^= 0xFF  # in the check sum
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(b"no archive at all" if cut == "text" else data if cut == "flipped" else data[:cut])
    elsewhere = Home(tmp_path / "elsewhere")
    assert restore(elsewhere, bad) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not [path for path in elsewhere.root.rglob("*") if path.is_file()]


def test_a_sweep_that_runs_or_holds_links_is_not_archived(put_away, tmp_path, capsys):
    home, _ = put_away
    with Ledger.open(home.sweep("toy"), write=True):
        assert archive(home, tmp_path / "other.tar.gz") == 1
        assert "is running" in capsys.readouterr().err
    shutil.move(home.sweep("toy").trials, tmp_path / "trials")
    home.sweep("toy").trials.symlink_to(tmp_path / "trials")
    assert archive(home, tmp_path / "other.tar.gz") == 1
    assert "is a link" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "toy.tar.gz", "trials"]
    manifest = json.loads(members(tmp_path / "toy.tar.gz")[0][1])
    assert manifest["sweep"] == "toy"
