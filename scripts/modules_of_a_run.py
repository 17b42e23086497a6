"""Print which modules a sweep of one trial runs through, from its file to its leaderboard (`run --inline`).

What counts is a module of which a function is called, not one that is merely imported: what a reader meets on the way.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

BASE = {
    "data": {"name": "digits"}, "model": {"name": "mlp", "width": 8, "depth": 1},
    "trainer": {"steps": 2, "eval_every": 2, "batch_size": 8, "log_every": 1},
    "evaluation": {"samples": 16, "nfe": [1]},
}  # fmt: skip
SWEEP = {
    "name": "one", "base": "base.yaml", "method": "random", "run_cap": 1,
    "metric": {"name": "eval/fid_1nfe", "goal": "minimize"},
    "parameters": {"optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3}},
}  # fmt: skip


def main() -> None:
    """Run the sweep and print the modules by package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="Print the modules, not only their number by package.")
    options = parser.parse_args()
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = str(frame.f_globals.get("__name__", ""))
        if event == "call" and name.startswith(("orchestrator.", "meanflow_core.")) and not _importing(frame):
            seen.add(name)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "base.yaml").write_text(yaml.safe_dump(BASE))
        (place / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
        from orchestrator.cli.main import run

        printed = io.StringIO()
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            with contextlib.redirect_stdout(printed):
                code = run(["run", str(place / "sweep.yaml"), "--inline", "--home", str(place / "home")])
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    if code:
        sys.exit(f"the sweep failed:\n{printed.getvalue()}")
    for root in ("orchestrator", "meanflow_core"):
        modules = sorted(name for name in seen if name.startswith(f"{root}."))
        packages = Counter(name.split(".")[1] for name in modules)
        print(f"{root}: {len(modules)} modules in {len(packages)} packages")
        for package, count in packages.items():
            print(f"  {package:12} {count}")
            if options.list:
                print("".join(f"    {name}\n" for name in modules if name.split(".")[1] == package), end="")


def _importing(frame: FrameType | None) -> bool:
    """Whether a frame belongs to the import of its own module: a class body, a decorator, a table that is filled."""
    own = frame.f_globals if frame else None
    while frame is not None and frame.f_globals is own:
        if frame.f_code.co_name in ("<module>", "__getattr__"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
