"""The examples of docs/reading-results.md are what the code prints. MEANSWEEP_WRITE_EXAMPLES=1 writes them anew."""

import json
import os
import re

import pytest
from rich.console import Console

from orchestrator.results.comparison import compare, compare_table
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.leaderboard_text import leaderboard_table
from orchestrator.results.parameter_importance import importance, importance_table
from orchestrator.results.sweep_status import status, status_table
from tests import ROOT
from tests.orchestrator.example_sweep import spec, trials

PAGE = ROOT / "docs" / "reading-results.md"
BLOCK = re.compile(r"(<!-- example: ([a-z-]+) -->\n```\w+\n)(.*?)(```)", re.S)


def text(renderable):
    console = Console(width=100, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def data(value):
    return json.dumps(rounded(value), indent=2, ensure_ascii=False) + "\n"


def rounded(value):
    """Numbers of four digits: the last bits of a float are not the page's business."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def examples():
    every = trials()
    rows = leaderboard(spec(), every, {"14": "8c1f0a52"})
    found = status(spec(), every[:20], state="running", wall_seconds=1800.0, concurrency=2)
    compared = compare(spec(), every, "22", "14")
    measured = importance(spec(), every).to_json()

    return {
        "leaderboard": text(leaderboard_table(spec(), rows, limit=6)),
        "leaderboard-json": data([row.to_json() for row in rows[1:2]]),
        "status": text(status_table(found)),
        "status-json": data(found.to_json()),
        "compare": text(compare_table(spec(), compared, rows=4)),
        "compare-json": data(compared.test.to_json()),
        "importance": text(importance_table(spec(), importance(spec(), every))),
        "importance-json": data({**measured, "importance": measured["importance"][:2]}),
    }


def test_the_examples_of_the_page_are_what_the_code_prints(examples):
    page = PAGE.read_text(encoding="utf-8")
    assert [name for _, name, _, _ in BLOCK.findall(page)] == list(examples)
    if os.environ.get("MEANSWEEP_WRITE_EXAMPLES") == "1":
        PAGE.write_text(BLOCK.sub(lambda m: m[1] + examples[m[2]] + m[4], page), encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
    for _, name, body, _ in BLOCK.findall(page):
        assert body == examples[name], name


def test_every_key_of_a_row_is_explained(examples):
    page = PAGE.read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.*?) \|", page, re.M))))
    assert set(json.loads(examples["leaderboard-json"])[0]) <= explained
