"""Repeat the ablations of the MeanFlow paper (arXiv 2505.13447, Tables 1 and 5) on data that two cores can train on.

    python scripts/paper_tables.py [--only digits-1a mnist-1e] [--home FOLDER] [--no-run]

Each table is one sweep of sweeps/paper/digits or sweeps/paper/mnist. A sweep that has finished is read, one that was
interrupted is resumed, the others are run; so the script may be stopped and started at will. It writes the tables of
docs/paper.md between their marks, where a table that is not in this home stays as it is, and draws
docs/images/paper.png of what the page then says.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.statistics import Interval, has_ratios, holm, mean_ci, paired_effect, rank_correlation
from orchestrator.trials import Group, group_by_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "paper.md"
FIGURE = ROOT / "docs" / "images" / "paper.png"
DATA = {"digits": "8x8 digits, MLP, 1,000 steps", "mnist": "28x28 MNIST digits, DiT, 500 steps"}

RATIO, TANGENT, EMBEDDING = "objective.time.ratio", "objective.tangent", "model.time_embedding"
LAW, MEAN, STD = "objective.time.law", "objective.time.mean", "objective.time.std"
POWER, SCALE, KAPPA = "objective.weight.power", "objective.guidance.scale", "objective.guidance.kappa"


@dataclass(frozen=True)
class Table:
    """A table of the paper: its rows, each with the swept values and the paper's FID-50K of a B/4 after 80 epochs."""

    number: str
    title: str
    sweep: str
    rows: tuple[tuple[str, dict[str, object], float], ...]


def _logit_normal(mean: float, std: float, fid: float) -> tuple[str, dict[str, object], float]:
    return f"lognorm({mean}, {std})", {LAW: "lognorm", MEAN: mean, STD: std}, fid


TABLES = (
    Table("1a", "Share of rows with r != t", "1a-ratio", tuple(
        (f"{ratio:.0%}", {RATIO: ratio}, fid)
        for ratio, fid in ((0.0, 328.91), (0.25, 61.06), (0.5, 63.14), (1.0, 67.32))
    )),
    Table("1b", "Tangent of the derivative", "1b-tangent", tuple(
        (f"(v, {t[1]}, {t[2]})", {TANGENT: t}, fid)
        for t, fid in (("v01", 61.06), ("v00", 268.06), ("v10", 329.22), ("v11", 137.96))
    )),
    Table("1c", "Embedding of the times", "1c-embedding", tuple(
        (name, {EMBEDDING: key}, fid)
        for name, key, fid in (
            ("(t, r)", "t_r", 61.75), ("(t, t-r)", "t_dt", 61.06),
            ("(t, r, t-r)", "t_r_dt", 63.98), ("t-r", "dt", 63.13),
        )
    )),
    Table("1d", "Distribution of the times", "1d-times", (
        ("uniform", {LAW: "uniform"}, 65.90),
        _logit_normal(-0.2, 1.0, 63.83), _logit_normal(-0.2, 1.2, 64.72),
        _logit_normal(-0.4, 1.0, 61.06), _logit_normal(-0.4, 1.2, 61.79),
    )),
    Table("1e", "Power of the adaptive weight", "1e-weight", tuple(
        (f"{power:g}", {POWER: power}, fid)
        for power, fid in ((0.0, 79.75), (0.5, 63.98), (1.0, 61.06), (1.5, 66.57), (2.0, 69.19))
    )),
    Table("1f", "Guidance scale, kappa = 0", "1f-guidance", tuple(
        (f"{scale:g}", {SCALE: scale}, fid)
        for scale, fid in ((1.0, 61.06), (1.5, 33.33), (2.0, 20.15), (3.0, 15.53), (5.0, 20.75))
    )),
    Table("5", "Kappa at effective scale 2", "5-kappa", tuple(
        (f"{kappa:g}", {KAPPA: kappa}, fid)
        for kappa, fid in ((0.0, 20.15), (0.5, 19.15), (0.8, 19.10), (0.9, 18.63), (0.95, 19.17))
    )),
)  # fmt: skip
ON_MNIST = ("1a", "1b", "1e")


@dataclass(frozen=True)
class Row:
    """One row as it came out here."""

    label: str
    paper: float
    by_seed: dict[int, float]

    @property
    def interval(self) -> Interval | None:
        """The mean over seeds with its 95 % interval."""
        return mean_ci(list(self.by_seed.values())) if self.by_seed else None

    @property
    def mean(self) -> float:
        """The mean; infinite for a row that diverged, which is thereby the worst."""
        return self.interval.mean if self.interval else math.inf


def sweep_file(table: Table, data: str) -> Path:
    """Return the sweep of a table on one kind of data."""
    return ROOT / "sweeps" / "paper" / data / f"table{table.sweep.replace('-', '_', 1)}.yaml"


def run(table: Table, data: str, home: Path) -> None:
    """Run the table's sweep to its end, from wherever it stands."""
    name = f"paper-{data}-{table.sweep}"
    environment = {**os.environ, "MEANSWEEP_HOME": str(home)}
    meansweep = [sys.executable, "-m", "orchestrator.cli"]
    if (home / "sweeps" / name).exists():
        status = subprocess.run([*meansweep, "status", name, "--json"], env=environment, capture_output=True, text=True)
        if status.returncode == 0 and json.loads(status.stdout)["state"] == "finished":
            return
        subprocess.run([*meansweep, "resume", name], env=environment, check=True)
    else:
        subprocess.run([*meansweep, "run", str(sweep_file(table, data))], env=environment, check=True)


def read(table: Table, data: str, home: Path) -> list[Row] | None:
    """Return the rows of a table in the paper's order; None if its sweep has not been run to its end."""
    paths = Home(home).sweep(f"paper-{data}-{table.sweep}")
    if not paths.journal.exists():
        return None
    records = Ledger.open(paths).trials()
    if not all(record.state.ended for record in records):
        return None
    groups = group_by_config(records)
    return [_row(label, values, paper, groups) for label, values, paper in table.rows]


def _row(label: str, values: dict[str, object], paper: float, groups: list[Group]) -> Row:
    found = [group for group in groups if values.items() <= group.searched.values.items()]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} configurations of the sweep have {values}; expected one")
    return Row(label, paper, found[0].by_seed())


def markdown(rows: list[Row]) -> str:
    """Return a table with intervals, tests against the best row, the paper's figures, and the rank correlation."""
    best = min(rows, key=lambda row: row.mean)
    others = [row for row in rows if row is not best]
    ratio = has_ratios(value for row in rows for value in row.by_seed.values())
    effects = [paired_effect(row.by_seed, best.by_seed, ratio=ratio, goal="minimize") for row in others]
    corrected = holm([effect.p_value if effect else None for effect in effects])
    tests = dict(zip((row.label for row in others), corrected, strict=True))
    lines = ["| | here | seeds | against the best | paper |", "|---|---|---|---|---|"]
    for row in rows:
        interval, p = row.interval, tests.get(row.label)
        half = f" ± {interval.half_width:.2f}" if interval and interval.half_width is not None else ""
        value = f"{interval.mean:.2f}{half}" if interval else "diverged"
        test = "best" if row is best else "" if p is None else f"p = {p:.1g}" if p < 0.05 else "not separable"
        lines.append(f"| {row.label} | {value} | {len(row.by_seed)} | {test} | {row.paper:.2f} |")
    rho = rank_correlation([row.mean for row in rows], [row.paper for row in rows])
    return "\n".join([*lines, "", f"Rank correlation with the paper: {rho:.2f}." if rho is not None else ""])


def write_page(found: dict[tuple[str, str], list[Row]]) -> None:
    """Put each table, and the figure, between its marks in docs/paper.md."""
    text = PAGE.read_text()
    parts = {f"{data} {number}": markdown(rows) for (data, number), rows in found.items()}
    parts["figure"] = f"![Each table relative to its best row, beside the paper's](images/{FIGURE.name})"
    for name, content in parts.items():
        mark = f"<!-- {name} -->"
        pattern = re.compile(rf"{re.escape(mark)}\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{PAGE.name} has no mark {mark}")
        text = pattern.sub(lambda _, mark=mark, content=content: f"{mark}\n{content}\n<!-- end -->", text)
    PAGE.write_text(text)


@dataclass(frozen=True)
class Printed:
    """One row as the page has it; `mean` is None where it diverged."""

    label: str
    mean: float | None
    half_width: float
    paper: float


def printed(page: str) -> dict[tuple[str, str], list[Printed]]:
    """Return the rows of each table of the page, by data and number; a table that has not been run is left out."""
    tables = {}
    for data, number, content in re.findall(r"<!-- (\w+) (\w+) -->\n(.*?)<!-- end -->", page, re.DOTALL):
        cells = [line.strip("| ").split(" | ") for line in content.splitlines() if line.startswith("|")][2:]
        if cells:
            tables[data, number] = [_printed(row[0], row[1], row[-1]) for row in cells]
    return tables


def _printed(label: str, value: str, paper: str) -> Printed:
    mean, _, half = value.partition(" ± ")
    return Printed(label, None if mean == "diverged" else float(mean), float(half or 0), float(paper))


def draw(tables: dict[tuple[str, str], list[Printed]]) -> None:
    """Draw each table beside the paper's: both relative to their best row, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 4
    ordered = sorted(tables.items(), key=lambda item: item[0])
    figure, axes = pyplot.subplots(-(-len(tables) // columns), columns, figsize=(15, 3.4 * -(-len(tables) // columns)))
    for axis, ((data, number), rows) in zip(axes.flat, ordered, strict=False):
        places = range(len(rows))
        known = [(place, row.mean, row.half_width) for place, row in enumerate(rows) if row.mean is not None]
        best, least = min(mean for _, mean, _ in known), min(row.paper for row in rows)
        axis.plot(places, [row.paper / least for row in rows], "o--", color="#999999", label="paper, ImageNet 256")
        axis.errorbar(
            [place for place, _, _ in known],
            [mean / best for _, mean, _ in known],
            yerr=[half / best for _, _, half in known],
            fmt="o-", capsize=3, color="#1f5fbf", label="here",
        )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xticks(list(places), [row.label for row in rows], rotation=25, ha="right", fontsize=8)
        axis.set_title(f"Table {number}, {data}", fontsize=10)
        for place, row in enumerate(rows):
            if row.mean is None:
                axis.annotate("diverged", (place, 0.93), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
        axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        low, high = axis.get_ylim()
        if high < 3 * low:  # powers of ten, and their multiples, are too far apart
            axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=[1, 2, 5]))
            axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        wide = high > 10 * low  # the labels between the powers of ten would lie on each other
        between = matplotlib.ticker.NullFormatter() if wide else matplotlib.ticker.FormatStrFormatter("%g")
        axis.yaxis.set_minor_formatter(between)
        axis.grid(alpha=0.3, which="both")
    for axis in list(axes.flat)[len(tables) :]:
        axis.axis("off")
    axes.flat[0].legend(fontsize=8)
    axes.flat[0].set_ylabel("Frechet distance / best row's")
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=80)


def main() -> None:
    """Run what is left to run, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="DATA-TABLE", help="e.g. digits-1a; the page is left alone")
    parser.add_argument("--home", type=Path, default=Path("meansweep-data"))
    parser.add_argument("--no-run", action="store_true", help="write the page from the sweeps that have finished")
    options = parser.parse_args()
    wanted = [(data, t) for data in DATA for t in TABLES if data == "digits" or t.number in ON_MNIST]
    if options.only:
        known = {f"{data}-{t.number}" for data, t in wanted}
        if unknown := [name for name in options.only if name not in known]:
            parser.error(f"no such table: {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        wanted = [(data, t) for data, t in wanted if f"{data}-{t.number}" in options.only]
    found = {}
    for data, table in wanted:
        if not options.no_run:
            run(table, data, options.home.resolve())
        rows = read(table, data, options.home.resolve())
        if rows is not None:
            found[data, table.number] = rows
            print(f"\nTable {table.number}: {table.title} ({DATA[data]})\n{markdown(rows)}")
    if not options.only:
        write_page(found)
        draw(printed(PAGE.read_text()))


if __name__ == "__main__":
    main()
