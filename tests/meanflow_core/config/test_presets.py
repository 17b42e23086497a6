"""The paper's settings, as docs/mathematics.md states them, are what the shipped files say."""

import itertools
import re

import pytest
import yaml

from meanflow_core.config import load_config
from tests import ROOT

TABLES = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / "mathematics.md").read_text(), re.MULTILINE)
IMAGENET = ["b4", "b2", "m2", "l2", "xl2", "xl2plus"]
FAMILY = ["b2_imf", "xl2_imf", "b2_alphaflow", "xl2_alphaflow"]
ABLATIONS = {
    "1a": "table1a_ratio", "1b": "table1b_tangent", "1c": "table1c_embedding", "1d": "table1d_times",
    "1e": "table1e_weight", "1f": "table1f_guidance", "5": "table5_kappa",
}  # fmt: skip
FIDS = {  # of the paper, once more: a slip in the document would be one in the sweeps' comments too
    "1a": [328.91, 61.06, 63.14, 67.32], "1b": [61.06, 268.06, 329.22, 137.96], "1c": [61.75, 61.06, 63.98, 63.13],
    "1d": [65.90, 63.83, 64.72, 61.06, 61.79], "1e": [79.75, 63.98, 61.06, 66.57, 69.19],
    "1f": [61.06, 33.33, 20.15, 15.53, 20.75], "5": [20.15, 19.15, 19.10, 18.63, 19.17],
}  # fmt: skip


def table(beginning):
    """Return the cells of the table whose first line begins so, without the rule below the heading."""
    (text,) = [text for text in TABLES if text.startswith(beginning)]
    rows = [[cell.strip().strip("*") for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
    return [rows[0], *rows[2:]]


def preset(name):
    return load_config(ROOT / "sweeps" / "configs" / f"{name}.yaml")


def at(config, key):
    for word in key.split("."):
        config = getattr(config, word)
    return config


def stated(beginning, columns):
    """Yield (file, key, value) of every cell in a row that a key begins."""
    heading, *rows = table(beginning)
    assert len(heading) == len(columns) + 1
    for key, *cells in rows:
        for names, cell in zip(columns, cells, strict=True):
            if key.startswith("`") and cell:
                yield from ((name, key.strip("`"), yaml.safe_load(cell)) for name in names)


CELLS = [
    *stated("| | B/4", [[f"imagenet256_{name}"] for name in IMAGENET]),
    *stated("| | iMF-B/2", [[f"imagenet256_{name}"] for name in FAMILY]),
    *stated("| | ImageNet", [[f"imagenet256_{name}" for name in IMAGENET], ["cifar10_unet"]]),
]


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CELLS}))
def test_a_training_file_holds_the_stated_values(name):
    config, wanted = preset(name), {key: value for file, key, value in CELLS if file == name}
    assert len(wanted) > 15
    assert {key: at(config, key) for key in wanted} == wanted


def test_the_omegas_are_those_of_the_paper():
    omegas = [preset(f"imagenet256_{name}").objective.guidance.effective_omega for name in IMAGENET]
    assert omegas == pytest.approx([1, 1, 1, 0.2, 0.2, 1])


def spoken(value):
    return value if isinstance(value, str) else f"{value:g}"


@pytest.mark.parametrize("number", ABLATIONS)
def test_a_sweep_of_the_paper_runs_exactly_the_stated_values(number):
    (heading, *values), (_, *fids) = table(f"| Table {number}: ")
    key = re.search("`(.*)`", heading)[1]
    sweep = yaml.safe_load((ROOT / "sweeps" / "paper" / f"{ABLATIONS[number]}.yaml").read_text())
    lists = {name: given.get("values", [given.get("value")]) for name, given in sweep["parameters"].items()}
    if number == "1d":
        normal = itertools.product(lists["objective.time.mean"], lists["objective.time.std"])
        laws = {"uniform": ["uniform"], "lognorm": [f"lognorm {spoken(m)} {spoken(s)}" for m, s in normal]}
        assert values == [one for law in lists[key] for one in laws[law]]
    else:
        assert values == [spoken(value) for value in lists[key]]
    assert [float(fid.strip("*")) for fid in fids] == FIDS[number]
    assert sweep["base"] == "../configs/imagenet256_b4.yaml"


def test_the_values_in_bold_are_those_of_the_base():
    base = preset("imagenet256_b4")
    time, guidance = base.objective.time, base.objective.guidance
    wanted = {
        "objective.time.law": f"{time.law} {spoken(time.mean)} {spoken(time.std)}",
        "objective.guidance.scale": spoken(guidance.effective_omega / (1 - guidance.kappa)),
    }
    bold = {}
    for text in TABLES:
        if text.startswith("| Table") and (found := re.search(r"\*\*(.+?)\*\*", text)):
            bold[re.search("`(.*)`", text)[1]] = found[1]
    assert len(bold) == 6
    assert bold == {key: wanted.get(key) or spoken(at(base, key)) for key in bold}
