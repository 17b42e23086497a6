"""The far end of `--address`: run one command on the cluster and print what came of it as one marked line.

A job's log mixes both output streams, and Ray's own lines; the marked line keeps them apart. A file that the command
writes comes back in it too.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "meansweep-result:"
BEGIN = "meansweep-output:"
"""Printed before the output of a command that is followed as it runs."""
DRIVING = "driving"
"""Begins a line by which a driver says that the sweep is open; a job without one has driven nothing."""
_OUT = ("-o", "--out", "--csv")


def main(words: Sequence[str]) -> int:
    """Run `meansweep WORDS` and print its result; with `--follow` first, let its output pass as it comes."""
    with tempfile.TemporaryDirectory(prefix="meansweep-job-") as scratch:
        # In a copy of the shipped code: where two Ray nodes share a machine, the second one unpacks it again, and the
        # working folder of a long-lived driver would be gone.
        code = Path(scratch, "code")
        shutil.copytree(Path.cwd(), code)
        if words and words[0] == "--follow":
            print(BEGIN, flush=True)
            return subprocess.call(_command(words[1:]), cwd=code)
        there, asked = redirect_out(words, str(Path(scratch, "out")))
        written = Path(scratch, "out" + Path(asked or "").suffix)
        done = subprocess.run(_command(there), cwd=code, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        result = {
            "code": done.returncode,
            "out": done.stdout.replace(str(written), asked or ""),
            "err": done.stderr.replace(str(written), asked or ""),
            "file": base64.b64encode(written.read_bytes()).decode() if written.is_file() else None,
        }
    print(MARK + json.dumps(result), flush=True)
    return done.returncode


def redirect_out(words: Sequence[str], target: str) -> tuple[list[str], str | None]:
    """Return the words with the file of `-o` replaced by `target` with its ending, and the file that was asked for."""
    found, asked = list(words), None
    for index, word in enumerate(words):
        if word in _OUT and index + 1 < len(words):
            asked = words[index + 1]
            found[index + 1] = target + Path(asked).suffix
        elif word.startswith(("--out=", "--csv=")):
            option, _, asked = word.partition("=")
            found[index] = f"{option}={target}{Path(asked).suffix}"
    return found, asked


def read_result(log: str) -> dict[str, Any] | None:
    """Return the result in a job's log; None if the command did not come to its end."""
    for line in reversed(log.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line[len(MARK) :]))
    return None


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", *words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
