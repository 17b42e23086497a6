"""Imports point one way, and every third party has one door."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Third parties a package may name, and the modules of `orchestrator` that may name the heavy ones.
CORE = {"torch", "numpy", "omegaconf", "safetensors", "yaml"}
CORE_LAZY = {"PIL", "scipy", "sklearn", "torchvision", "torch_fidelity", "torchmetrics", "diffusers"}
DOORS = {
    "ray": {
        *("runner_ray", "runner_worker", "runner_process", "runner_group", "runner_nodes", "process_group"),
        *("cluster_jobs", "doctor", "final"),
    },
    "mlflow": {"store", "delivery", "registry", "pyfunc_model"},
    "optuna": {"ledger", "journal", "search", "axes", "stopping", "importance", "charts_parameters"},
    "omegaconf": set(),
    "yaml": set(),
}


def imports(path: Path):
    """Yield (top-level name, dotted module, is at module level) of every import of a file."""
    tree = ast.parse(path.read_text())
    top = set()
    pending = list(tree.body)
    while pending:  # `if TYPE_CHECKING:` and `try:` run at import time (or cost nothing): look inside
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try):
            pending += node.body + node.orelse
        top.add(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], alias.name, node in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], node.module, node in top


def third_parties(path: Path, *, top_only: bool = False):
    import sys

    own = {"meanflow_core", "orchestrator", "__future__", *sys.stdlib_module_names}
    return {name for name, _, top in imports(path) if name not in own and (top or not top_only)}


def modules(package: str):
    return [p for p in sorted((ROOT / package).rglob("*.py"))]


def test_the_core_never_imports_the_sweep():
    wrong = {p.name for p in modules("meanflow_core") if any(n == "orchestrator" for n, _, _ in imports(p))}
    assert wrong == set()


def test_the_core_needs_only_its_four_packages_to_import():
    wrong = {str(p.relative_to(ROOT)): third_parties(p, top_only=True) - CORE for p in modules("meanflow_core")}
    assert {k: v for k, v in wrong.items() if v} == {}
    anywhere = {str(p.relative_to(ROOT)): third_parties(p) - CORE - CORE_LAZY for p in modules("meanflow_core")}
    assert {k: v for k, v in anywhere.items() if v} == {}


def test_every_heavy_third_party_has_its_doors():
    wrong = [
        f"{path.name} imports {name}"
        for path in modules("orchestrator")
        for name in third_parties(path)
        if name in DOORS and path.stem not in DOORS[name]
    ]
    assert wrong == []


def test_mlflow_is_spoken_to_through_its_client_alone():
    # Its other functions (`mlflow.log_metric`) share one active run in a process, and threads get into each other's.
    fluent = []
    for path in modules("orchestrator"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "mlflow":
                fluent += [f"{path.name}: from mlflow import {a.name}" for a in node.names if a.name != "MlflowClient"]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mlflow":
                fluent += [f"{path.name}: mlflow.{node.attr}"] * (node.attr != "pyfunc")  # writes a folder
    assert fluent == []


def graph(package: str):
    """Return module -> own modules it imports when it is imported."""
    edges = {}
    for path in modules(package):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        edges[name] = {m for n, m, top in imports(path) if top and n == package and m != name}
    return edges


def test_no_module_imports_in_a_circle():
    for package in ("meanflow_core", "orchestrator"):
        edges = graph(package)
        done: set[str] = set()

        def visit(name: str, trail: tuple[str, ...], edges=edges, done=done):
            assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
            if name in done:
                return
            for other in edges.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

        for name in edges:
            visit(name, ())


@pytest.mark.parametrize("folder", ["scripts", "benchmarks"])
def test_what_scripts_import_from_the_packages_is_there(folder):
    missing = []
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            own = isinstance(node, ast.ImportFrom) and str(node.module).startswith(("meanflow_core", "orchestrator"))
            if own:
                module = importlib.import_module(node.module)
                missing += [f"{path.name}: {node.module}.{a.name}" for a in node.names if not hasattr(module, a.name)]
    assert missing == []
