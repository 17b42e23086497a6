"""A sweep on a cluster in which everything goes wrong once, and the model that comes of it.

    python -m scripts.cluster_demo [--short | --bucket] [--picture cluster-demo.png]

On this machine it starts a Ray cluster of three nodes with a token (the head has no CPUs) and an MLflow server with a
password, and sweeps over real digits from a folder that knows neither. A node is killed in mid-trial, MLflow goes
away, the driver is killed, the sweep is stopped; it is resumed twice and must end complete, with every metric in
MLflow once. A trial with two workers loses the node of one. The winner is trained on two workers, one of which is
killed; it is registered, loaded back and sampled. The long form has MLflow on PostgreSQL where that is installed, and
ends with two homes on one bucket that goes away, the removal of a sweep of one of them, and a search of all files for
passwords and keys (`--bucket`: that alone). Each claim is checked and printed with what was found; exit code 1 with the
first that does not hold. All that it starts ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from scripts.cluster_demo import losses, team, winner
from scripts.cluster_demo.claims import ClaimFailed, meanwhile, say
from scripts.cluster_demo.laptop import LONG, SHORT
from scripts.cluster_demo.stage import Stage


def play(stage: Stage, picture: Path) -> None:
    """Play the whole of it.

    Raises:
        ClaimFailed: a claim does not hold.
    """
    losses.look_at_the_cluster(stage)
    follower = losses.submit(stage)
    lost = losses.lose_a_node(stage)
    losses.lose_mlflow_and_the_driver(stage, follower)
    losses.go_on_to_the_end(stage, lost)

    def read_the_results() -> None:
        losses.compare_with_mlflow(stage)
        winner.choose_the_winner(stage)

    with meanwhile(read_the_results):
        losses.lose_a_node_of_a_pair(stage)
    name = winner.train_the_winner(stage)
    winner.use_the_model(stage, name, picture)


@contextlib.contextmanager
def terminated_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that everything that was started ends."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="small networks, few steps, an outage of seconds")
    parser.add_argument("--bucket", action="store_true", help="the bucket, the two homes and the secrets alone")
    parser.add_argument("--picture", type=Path, default=Path("cluster-demo.png"), help="where the samples go")
    options = parser.parse_args()
    began = time.monotonic()
    size = SHORT if options.short else LONG
    if options.bucket:
        size = dataclasses.replace(LONG, steps=400, final_steps=600, width=48, samples=200, outage=45)
    scratch = Path(tempfile.mkdtemp(prefix="rc-"))  # Ray's sockets need a short path
    with terminated_as_exit(), ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        try:
            stage = Stage(scratch, size, stack)
            if not options.bucket:
                play(stage, options.picture.absolute())
            if not options.short:
                team.share_a_bucket(stage)
                team.search_for_secrets(stage)
        except ClaimFailed as failure:
            print(f"\nFAILED: {failure}", file=sys.stderr)
            return 1
    say(f"every claim held, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
