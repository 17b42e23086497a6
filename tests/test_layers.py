"""Imports point one way, and every third party has one door."""

import ast
import importlib
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

# What each package may import beside itself, the leaves and (in `orchestrator`) `meanflow_core`: only what is above it.
CORE_PACKAGES = {
    "config": set(),
    "flow": {"config"},
    "derivative": {"config", "flow"},
    "objectives": {"config", "flow", "derivative"},
    "nets": {"config", "flow"},
    "data": {"config", "flow"},
    "metrics": {"config", "data"},
    "sampling": {"config", "flow", "data"},
    "training": {"config", "flow", "derivative", "objectives", "nets", "data", "metrics", "sampling"},
    "run": {"config", "sampling", "training"},
}
CORE_LEAVES = {"errors", "faces", "rng", "distributed", "half_precision"}
PACKAGES = {
    "space": set(),
    "trials": set(),
    "search": {"space", "trials"},
    "spec": {"space", "trials", "search"},
    "ledger": {"spec", "trials"},
    "worker": {"spec", "trials"},
    "planning": {"spec", "worker"},
    "results": {"space", "spec", "trials", "search", "ledger", "planning"},
    "tracking": {"space", "spec", "trials", "results"},
    "report": {"spec", "trials", "results", "planning"},
    "engine": {"space", "spec", "trials", "ledger", "search", "worker", "results", "tracking"},
    "runners": {"spec", "trials", "worker", "results", "engine"},
    "final": {"trials", "worker", "runners", "results", "tracking"},
    "lifecycle": {"trials", "ledger", "worker", "results", "tracking", "final"},
    "cluster": {"spec", "results"},
    "api": {
        *("spec", "trials", "ledger", "worker", "planning", "results", "tracking", "report", "engine", "runners"),
        *("final", "cluster"),
    },
    "cli": {
        *("spec", "trials", "ledger", "worker", "planning", "results", "tracking", "report", "engine", "runners"),
        *("final", "lifecycle", "cluster", "api"),
    },
}
LEAVES = {
    *(
        "credentials",
        "ending",
        "paths",
        "provenance",
        "source_files",
        "statistics",
        "formatting",
        "limits",
        "reporting",
    ),
}
TYPES_ONLY = {("engine", "tracking"), ("runners", "results")}
"""Packages that another one may name in its types and not use."""

# Third parties a package may name, and the modules of `orchestrator` that may name the heavy ones.
CORE = {"torch", "numpy", "omegaconf", "safetensors", "yaml"}
OPTIONAL = {"meanflow_core/derivative/attention_kernel.py": {"triton"}}
"""Modules that are imported only where such a package is."""
CORE_LAZY = {
    "triton",
    "PIL",
    "mlxtend",
    "scipy",
    "sklearn",
    "torchvision",
    "torch_fidelity",
    "torchmetrics",
    "diffusers",
}
DOORS = {
    "ray": {"worker", "runners", "cluster", "final", "cli/doctor"},
    "mlflow": {
        *("tracking/mlflow_store", "tracking/mlflow_delivery", "tracking/mlflow_removal", "tracking/run_files"),
        *("final/mlflow_registry", "final/mlflow_model"),
    },
    "optuna": {"ledger", "search", "results/studies", "results/parameter_importance", "report", "api/sweep"},
    "pandas": {"api", "final/mlflow_registry", "final/mlflow_model"},
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
    assert {k: v for k, v in wrong.items() if v} == OPTIONAL
    anywhere = {str(p.relative_to(ROOT)): third_parties(p) - CORE - CORE_LAZY for p in modules("meanflow_core")}
    assert {k: v for k, v in anywhere.items() if v} == {}


def test_every_heavy_third_party_has_its_doors():
    wrong = []
    for path in modules("orchestrator"):
        place = path.relative_to(ROOT / "orchestrator").with_suffix("")
        doors = {str(place), *map(str, place.parents)}
        wrong += [f"{place} imports {n}" for n in third_parties(path) if n in DOORS and not doors & DOORS[n]]
    assert wrong == []


def crossings(root: str, leaves: set[str]):
    """Yield (module, its package, the package it imports from, names, at run time) of every import across packages."""
    for path in modules(root):
        place = path.relative_to(ROOT).with_suffix("").parts
        own = place[1] if len(place) > 2 else None
        tree = ast.parse(path.read_text())
        guarded = {
            inner
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
            for inner in ast.walk(block)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.split(".")[0] in ("orchestrator", "meanflow_core")
            ):
                top, *inner = node.module.split(".")
                names = {alias.name for alias in node.names}
                if top == root and not inner:
                    assert names <= leaves or own is None, f"{'.'.join(place)} imports {names} from {top}"
                    continue
                if top != root or inner[0] != own:
                    yield ".".join(place), own, (top, *inner), names, node not in guarded


@pytest.mark.parametrize(
    ("root", "table", "leaves"), [("meanflow_core", CORE_PACKAGES, CORE_LEAVES), ("orchestrator", PACKAGES, LEAVES)]
)
def test_packages_import_downwards_and_through_faces(root, table, leaves):
    assert {path.parent.name for path in (ROOT / root).glob("*/__init__.py")} == set(table)
    wrong = []
    for module, own, (top, first, *deeper), names, used in crossings(root, leaves):
        if own is None and (module == f"{root}.__init__" or (module.count(".") <= 1 and root == "meanflow_core")):
            continue  # the face of the whole, and the command of the core, may import from every package
        line = f"{module} imports {', '.join(sorted(names))} from {'.'.join((top, first, *deeper))}"
        if first in (CORE_LEAVES if top == "meanflow_core" else leaves):
            wrong += [line] * bool(deeper)
            continue
        face = importlib.import_module(f"{top}.{first}")
        if deeper or not names <= set(face.__all__):
            wrong.append(f"{line}, past its face")
        if top == root and own is None:
            wrong.append(f"{line}, and a leaf imports no package")
        elif (top == root and first not in table[own]) or (used and (own, first) in TYPES_ONLY):
            wrong.append(f"{line}, which is not below it")
    assert wrong == []


@pytest.mark.parametrize(("root", "table"), [("meanflow_core", CORE_PACKAGES), ("orchestrator", PACKAGES)])
def test_the_table_has_no_circle_and_every_package_says_what_it_is_for(root, table):
    assert tuple(TopologicalSorter(table).static_order())
    for name in table:
        package = importlib.import_module(f"{root}.{name}")
        assert "\n" not in (package.__doc__ or "\n"), f"{name} has no sentence"
        own = {path.stem for path in (ROOT / root / name).glob("*.py")}
        hidden = own & set(getattr(package, "__all__", ()))  # an import of the module puts it in the name's place
        tree = ast.parse((ROOT / root / name / "__init__.py").read_text())
        meant = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
                 if node.module == package.__name__}  # fmt: skip
        assert not hidden - meant, f"{name}: a name is that of a module"


def test_a_face_lists_what_others_import_and_nothing_else():
    imported = {
        (first, name)
        for module, own, (top, first, *_), names, _ in crossings("orchestrator", LEAVES)
        if top == "orchestrator"
        for name in names
    }
    faces = {
        (name, each)
        for name in PACKAGES
        for each in getattr(importlib.import_module(f"orchestrator.{name}"), "__all__", ())
    }
    assert sorted(faces - imported) == []


LONGEST = 350
"""Lines of a module; a longer one says in its docstring why it is one module."""


def test_no_module_outgrows_one_idea_without_saying_why():
    long = [
        str(path.relative_to(ROOT))
        for root in ("meanflow_core", "orchestrator")
        for path in modules(root)
        if len(path.read_text().splitlines()) > LONGEST
        and "One module" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert long == []


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


def test_the_installed_command_is_there():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for place in scripts.values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


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


PAGE = (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize(("root", "table"), [("orchestrator", PACKAGES), ("meanflow_core", CORE_PACKAGES)])
def test_the_page_on_the_architecture_has_the_table_of_imports(root, table):
    shown = PAGE.partition(f"| package of `{root}` |")[2].partition("\n\n")[0].splitlines()[2:]
    read = {}
    for package, allowed in (line.strip("| ").split(" | ") for line in shown):
        names = set(re.findall(r"`(\w+)`", allowed))
        read[package.strip("`")] = names
    assert read == table


@pytest.mark.parametrize(("root", "table"), [("orchestrator", PACKAGES), ("meanflow_core", CORE_PACKAGES)])
def test_the_picture_of_the_tree_has_every_package_above_those_it_imports(root, table):
    picture = PAGE.partition("```text\n")[2].partition("```")[0].partition(f"{root}/")[2]
    picture = re.split(r"^\w+/", picture, flags=re.MULTILINE)[0]
    shown = re.findall(r"^  (\w+)/ ", picture, flags=re.MULTILINE)
    assert sorted(shown) == sorted(table)
    assert [
        f"{package} above {other}"
        for package in table
        for other in table[package]
        if shown.index(package) > shown.index(other)
    ] == []


def test_the_files_that_the_page_names_are_there():
    named = re.findall(r"`([\w/*]+(?:\.py|/))`", PAGE.partition("## Contracts")[0])
    places = [ROOT, ROOT / "orchestrator", ROOT / "meanflow_core"]
    assert len(named) > 50
    assert [name for name in named if not any(list(place.glob(name.rstrip("/"))) for place in places)] == []
