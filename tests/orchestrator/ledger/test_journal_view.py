"""A journal read without Optuna says what Optuna says of it."""

import pytest

from orchestrator.ledger.journal_view import read_journal
from orchestrator.ledger.studies import Studies
from orchestrator.paths import Home, SweepPaths
from tests import ROOT
from tests.orchestrator import simulation, toy


def facts_of(studies):
    rows = [(row._trial_id, row.number, row.state.is_finished(), row.user_attrs) for row in studies.rows()]
    return studies.facts, rows, studies.observations()


@pytest.fixture
def paths(tmp_path):
    home = Home(tmp_path)
    simulation.run(home, toy.sweep(name="first", run_cap=3))
    content = toy.sweep(
        name="second", run_cap=12, early_terminate={"type": "asha", "min_iter": 10, "eta": 3},
        replicates={"top": 2, "seeds": 2}, warm_start=["first"], method="tpe",
    )  # fmt: skip
    simulation.run(home, content)
    return home.sweep("second")


def test_it_has_the_rows_facts_and_observations_that_optuna_reads(paths):
    assert facts_of(read_journal(paths)) == facts_of(Studies.load(paths, None))
    assert len(list(read_journal(paths).rows())) == 16


@pytest.mark.parametrize("file", ["journal-1.jsonl", "journal-2.jsonl"])
def test_journals_of_earlier_releases_are_read_alike(tmp_path, file):
    paths = SweepPaths(tmp_path)
    paths.journal.write_bytes((ROOT / "tests/orchestrator/data" / file).read_bytes())
    assert facts_of(read_journal(paths)) == facts_of(Studies.load(paths, None))


def test_what_is_added_to_a_finished_row_counts_no_more_than_for_optuna(paths):
    late = b'{"op_code":8,"worker_id":"somebody-else","trial_id":0,"user_attr":{"label:late":{"value":1}}}\n'
    finished = next(row for row in read_journal(paths).rows() if row.state.is_finished())
    paths.journal.write_bytes(
        paths.journal.read_bytes() + late.replace(b'"trial_id":0', b'"trial_id":%d' % finished._trial_id)
    )
    assert facts_of(read_journal(paths)) == facts_of(Studies.load(paths, None))


@pytest.mark.parametrize(
    "tail",
    [
        b'{"op_code":8,"worker_id":"w","trial_id":1',  # half a line
        b"garbage\n",
        b'{"op_code":1,"worker_id":"w","study_id":0}\n',  # a study is deleted: not by us
        b'{"op_code":8,"worker_id":"w","trial_id":99,"user_attr":{"a":1}}\n',
    ],
)
def test_of_anything_else_optuna_is_asked(paths, tail):
    paths.journal.write_bytes(paths.journal.read_bytes() + tail)
    assert read_journal(paths) is None
