"""What a test leaves behind when it is killed: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests import ROOT
from tests.guardian import Guardian, inside, marked

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from tests.guardian import Guardian

Guardian(Path(sys.argv[1]), f"MARK={sys.argv[2]}")
child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
subprocess.run([sys.executable, "-c", child], env={**os.environ, "MARK": sys.argv[2]})
print("ready", flush=True)
time.sleep(600)
"""


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_and_the_folder_of_a_test_that_was_killed_go_with_it(tmp_path):
    folder, mark = tmp_path / "scratch", f"killed-{os.getpid()}"
    folder.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), mark], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    assert len(marked(f"MARK={mark}")) == 1  # its parent is gone: no tree leads to it
    assert folder.exists()
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stdout.close()
    wait_until(lambda: not marked(f"MARK={mark}") and not folder.exists())


def test_it_clears_up_at_once_when_it_is_told_to_and_leaves_others_alone(tmp_path):
    folder, mark = tmp_path / "scratch", f"told-{os.getpid()}"
    folder.mkdir()
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    (folder / "below").mkdir()
    own = subprocess.Popen(sleep, env={"MARK": mark})
    there = subprocess.Popen(sleep, env={}, cwd=folder / "below")
    other = subprocess.Popen(sleep, env={"MARK": mark + "-another"}, cwd=tmp_path)
    guardian = Guardian(folder, f"MARK={mark}")
    wait_until(lambda: (marked(f"MARK={mark}"), inside(folder)) == ([own.pid], [there.pid]))
    guardian.clear()
    assert own.wait(timeout=10) == there.wait(timeout=10) == -signal.SIGKILL
    assert not folder.exists()
    assert other.poll() is None
    other.kill()
    other.wait()
