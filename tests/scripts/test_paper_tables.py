"""The paper's tables: their sweeps cover the rows, and what is written of them is what the sweeps found."""

import os
import subprocess
import sys

import pytest

from orchestrator.spec import read_spec
from scripts.paper_tables import ON_MNIST, PAGE, TABLES, Printed, Row, markdown, printed, read, sweep_file
from tests import ROOT

SWEEPS = [("digits", table) for table in TABLES] + [("mnist", t) for t in TABLES if t.number in ON_MNIST]


@pytest.mark.parametrize(("data", "table"), SWEEPS, ids=lambda x: getattr(x, "number", x))
def test_a_sweep_has_the_rows_of_its_table_and_the_page_a_place_for_them(data, table):
    spec = read_spec(sweep_file(table, data))
    grid = list(spec.space.grid())
    assert len(grid) == len(table.rows)
    assert all(sum(values.items() <= trial.items() for trial in grid) == 1 for _, values, _ in table.rows)
    assert spec.name == f"paper-{data}-{table.sweep}"
    assert f"<!-- {data} {table.number} -->" in PAGE.read_text()


def test_a_table_has_intervals_tests_and_the_rank_correlation():
    rows = [
        Row("a", 10.0, {0: 2.0, 1: 6.0}),
        Row("b", 20.0, {0: 1.0, 1: 3.1}),
        Row("c", 30.0, {}),
        Row("d", 15.0, {0: 2.0, 1: 9.0}),
    ]
    text = markdown(rows)
    assert "| a | 4.00 ± 25.41 | 2 | p = 0.03 | 10.00 |" in text  # log 2 and log 1.94; t = 41 with 1 degree
    assert "| b | 2.05 ± 13.34 | 2 | best | 20.00 |" in text
    assert "| c | diverged | 0 |  | 30.00 |" in text
    assert "| d | 5.50 ± 44.47 | 2 | not separable | 15.00 |" in text
    assert "Rank correlation with the paper: 0.40." in text
    page = f"<!-- digits 1a -->\n{text}\n<!-- end -->\n<!-- mnist 1a -->\nNot run yet.\n<!-- end -->\n"
    assert printed(page) == {
        ("digits", "1a"): [
            Printed("a", 4.0, 25.41, 10.0),
            Printed("b", 2.05, 13.34, 20.0),
            Printed("c", None, 0.0, 30.0),
            Printed("d", 5.5, 44.47, 15.0),
        ]
    }


def test_a_short_table_is_run_and_read(tmp_path):
    table = next(t for t in TABLES if t.number == "1a")
    short = ["set.trainer.steps=2", "set.trainer.eval_every=2", "set.evaluation.samples=64", "replicates.seeds=1"]
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(sweep_file(table, "digits")), "--inline", *short]
    environment = {**os.environ, "MEANSWEEP_HOME": str(tmp_path)}
    assert read(table, "digits", tmp_path) is None
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read(table, "digits", tmp_path)
    assert [row.label for row in rows] == ["0%", "25%", "50%", "100%"]
    assert all(len(row.by_seed) == 2 and row.interval.half_width > 0 for row in rows)
