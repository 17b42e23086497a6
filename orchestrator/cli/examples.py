"""What people type: one or two examples at the end of each command's help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "plan": ("plan sweep.yaml", "plan sweep.yaml run_cap=8 trainer.steps=200 --probe"),
    "run": ("run sweep.yaml", "run sweep.yaml run_cap=8 --name quick --inline"),
    "submit": ("submit sweep.yaml --address http://127.0.0.1:8265 --follow",),
    "resume": ("resume digits",),
    "stop": ("stop digits",),
    "pause": ("pause digits",),
    "status": ("status digits", "status digits --json"),
    "logs": ("logs digits", "logs digits 7 -f"),
    "list": ("list",),
    "remove": ("remove digits",),
    "prune": ("prune digits --dry-run",),
    "archive": ("archive digits",),
    "restore": ("restore digits.tar.gz",),
    "trial delete": ("trial delete digits 7",),
    "extend": ("extend digits 8",),
    "edit": ("edit sweep.yaml digits --dry-run",),
    "retry": ("retry --failed digits",),
    "rerun": ("rerun digits 7 --inline",),
    "leaderboard": ("leaderboard digits -n 10", "leaderboard digits moons --json"),
    "compare": ("compare digits 7 9", "compare digits digits-wide --reach 2.5"),
    "importance": ("importance digits",),
    "export": ("export digits -o trials.csv",),
    "report": ("report digits -o report.html", "report digits digits-wide -o both.html"),
    "best": ("best digits -o best.yaml", "best digits --trial 7"),
    "train": ("train best.yaml", "train digits --top 3"),
    "sample": ("sample best.yaml -n 100 --nfe 1,2 -o samples.png",),
    "ui": ("ui",),
    "sync": ("sync digits --check",),
    "schema": ("schema -o sweep.schema.json",),
    "doctor": ("doctor", "doctor --address http://127.0.0.1:8265"),
    "trial stop": ("trial stop digits 7",),
    "trial pause": ("trial pause digits 7",),
    "trial retry": ("trial retry digits 7",),
}
"""Words after `meansweep`, by command."""


def epilog(command: str, more: str | None = None) -> str | None:
    """Return the end of a command's help: its examples, and what else is to be said.

    Args:
        command: as people type it.
        more: a paragraph below them.
    """
    lines = [f"  meansweep {words}" for words in EXAMPLES.get(command, ())]
    # \b: lines that stay as they are
    shown = ["\n".join(["\b", f"Example{'s' if len(lines) > 1 else ''}:", *lines])] if lines else []
    return "\n\n".join([*shown, *([more] if more else [])]) or None
