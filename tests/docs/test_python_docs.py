"""Every block of docs/python.md and every cell of docs/sweep.ipynb runs, in order, in an empty folder."""

import json
import re

import pytest

from tests import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()
NOTEBOOK = json.loads((ROOT / "docs" / "sweep.ipynb").read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing answers: what is sent waits in its outbox
    return tmp_path


def test_the_blocks_of_the_page_run(folder):
    space = {}
    for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(text, "python.md", "exec"), space)
    metric = "eval/sliced_wasserstein_1nfe"
    board = space["board"]
    assert list(board["rank"]) == list(range(1, 11))
    assert (board["sweep"] == "moons").all()
    assert board.loc[0, "n"] == 2
    assert board.loc[0, "low"] < board.loc[0, metric] < board.loc[0, "high"]
    assert space["config"].optimizer.lr == pytest.approx(board.loc[0, "optimizer.lr"])
    assert len(space["ends"]) == 12
    assert list(space["by_ratio"].index) == [0.25, 0.5]
    assert space["everything"].to_dict("list")["sweep"] == ["moons"]
    assert len(space["figure"].data) == 10
    assert space["page"].read_text().count("moons") > 3
    assert len(space["sweep"].leaderboard()) == 12


def test_the_cells_of_the_notebook_run_from_start_to_optunas_plots(folder):
    import matplotlib

    matplotlib.use("Agg")
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    space = {}
    for text in cells:
        exec(compile(text, "sweep.ipynb", "exec"), space)
    assert len(space["sweep"].leaderboard()) == 12
    assert len(space["curves"].get_lines()) == 12  # Optuna's plot of intermediate values: a line a trial
