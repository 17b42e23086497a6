"""Every block of docs/own-networks.md runs, in order, in an empty folder, with the commands it shows."""

import json
import re
import sys

import pytest
import torch

from meanflow_core.__main__ import main as core
from orchestrator.cli.main import run
from tests import ROOT

PAGE = (ROOT / "docs" / "own-networks.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: title=(?P<title>\S+))?\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind, *, titled):
    return [block for block in BLOCK.finditer(PAGE) if block["kind"] == kind and bool(block["title"]) == titled]


def test_the_notebook_blocks_train_and_sample():
    space = {}
    seen = {}
    for block in blocks("python", titled=False):
        exec(compile(block["text"], "own-networks.md", "exec"), space)
        seen |= {name: space[name].shape for name in ("rows", "waves", "some") if name in space}
    assert seen == {"rows": (100, 5), "waves": (12, 2, 48), "some": (6, 12, 8)}
    assert {"eval/sliced_wasserstein_1nfe", "eval/mmd_1nfe"} < set(space["values"])
    assert space["picture"].dtype.name == "uint8"
    assert space["picture"].std() > 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for block in [*blocks("python", titled=True), *blocks("yaml", titled=True)]:
        (tmp_path / block["title"]).write_text(block["text"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_commands_plan_run_train_and_sample(folder, capsys):
    (shell,) = blocks("sh", titled=False)
    for line in shell["text"].splitlines():
        words = line.split()
        code = core(words[3:]) if words[0] == "python" else run([*words[1:], *_quick(words[1])])
        assert code == 0, (line, capsys.readouterr())
    assert (folder / "samples.png").stat().st_size > 0
    capsys.readouterr()
    assert run(["leaderboard", "own", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["config"]["model.width"] for row in rows) == [4, 8]
    assert rows[0]["metric"] <= rows[1]["metric"]
    assert torch.isfinite(torch.tensor(rows[0]["metric"]))


def _quick(command):
    """In this process, without Ray and the registry."""
    return {"run": ["--inline"], "train": ["--no-register"]}.get(command, [])
