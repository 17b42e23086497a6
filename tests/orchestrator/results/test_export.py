import csv
import io
import json

from orchestrator.results.export import to_csv
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_trial_is_a_row_with_its_values_reports_seed_and_state():
    every = trials()
    rows = read(to_csv(spec(), every))
    assert [row["trial"] for row in rows] == [trial.id for trial in every]
    for row, trial in zip(rows, every, strict=True):
        assert (row["state"], int(row["seed"]), int(row["steps"])) == (trial.state.value, trial.seed, trial.steps)
        assert float(row["optimizer.lr"]) == trial.values["optimizer.lr"]
        assert {int(k): v for k, v in json.loads(row["reports"]).items()} == trial.reports
        at_500 = trial.reports.get(500, {}).get(METRIC)
        assert row[f"{METRIC}@500"] == ("" if at_500 is None else str(at_500))


def test_a_value_that_does_not_exist_is_an_empty_cell():
    rows = read(to_csv(spec(), trials()))
    assert {row["objective.time.mean"] == "" for row in rows if row["objective.time.law"] == "uniform"} == {True}


def test_failures_say_their_class_and_reason_and_survive_commas_and_newlines():
    failed = record(1, None, state="failed", failure=Failure("bug", 'a, "b"\nc'))
    (row,) = read(to_csv(spec(), [failed]))
    assert (row["failure"], row["reason"]) == ("bug", 'a, "b"\nc')


def test_numbers_keep_every_digit_and_lists_are_json():
    values = {"optimizer.lr": 0.1 + 0.2, "ema.decays": [0.9, 0.99], "flag": True}
    (row,) = read(to_csv(spec(), [record(1, 1 / 3, values=values)]))
    assert float(row["optimizer.lr"]) == 0.1 + 0.2
    assert float(row[METRIC]) == 1 / 3
    assert json.loads(row["ema.decays"]) == [0.9, 0.99]
    assert row["flag"] == "true"


def test_text_that_a_spreadsheet_would_run_is_defused():
    (row,) = read(to_csv(spec(), [record(1, 1.0, reason="=HYPERLINK(1)")]))
    assert row["reason"] == "'=HYPERLINK(1)"


def test_an_empty_sweep_is_a_header():
    assert to_csv(spec(), []).count("\n") == 1


def test_pandas_reads_it():
    import pandas as pd

    frame = pd.read_csv(io.StringIO(to_csv(spec(), trials())), dtype={"trial": str})
    assert len(frame) == 33
    assert frame[METRIC].notna().sum() == 33
