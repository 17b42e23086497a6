"""The winner is trained at full length on two workers, one of which is killed; its model is loaded back and used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from meanflow_core.config.yaml_file import read_yaml
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_sync import check
from scripts.cluster_demo.claims import claim, meanwhile, say, wait_for
from scripts.cluster_demo.laptop import SWEEP
from scripts.cluster_demo.stage import CREDENTIALS, Stage
from tests.cluster.local_cluster import command_of, descendants, kill


def choose_the_winner(stage: Stage) -> None:
    """Ask for the best trial's configuration."""
    stage.laptop.types(f"best {SWEEP} -o best.yaml")


def train_the_winner(stage: Stage) -> str:
    """Train it, and return the name of its training and of its model."""
    evidence = read_yaml(stage.laptop.folder / "best.yaml").content["evidence"]
    name = f"{SWEEP}-{evidence['trial']}"
    output = stage.laptop.folder / "train.txt"
    training = stage.laptop.begins("train best.yaml --workers 2", output)
    stage.stack.callback(lambda: kill([training.pid]) if training.poll() is None else None)
    checkpoints = Home(stage.cluster.home).final(name) / "checkpoints"
    wait_for(
        "a checkpoint of the final training",
        lambda: training.poll() is not None or list(checkpoints.glob("step-*")),
    )
    ranks = [[pid for pid in descendants(node.pid) if "RayTrainWorker" in command_of(pid)] for node in stage.nodes]
    claim("the winner trains on two workers, on two nodes", [len(pids) for pids in ranks] == [1, 1], ranks)
    reached = max(path.name for path in checkpoints.glob("step-*"))
    say(f"one of the two workers is killed at {reached}")
    kill(ranks[1])
    code = wait_for("the end of the training", lambda: training.poll() is not None and [training.returncode])
    text = output.read_text()
    print("\n".join(f"          | {line[:150]}" for line in text.splitlines()[-12:]), flush=True)
    claim("the training goes on by itself to its end", code == [0] and f"{stage.size.final_steps} steps" in text, code)
    said = re.search(r"^trial +(.*)$", text, re.M)
    claim("it says that it reproduced its trial", said and said[1].startswith("reproduced"), said and said[1])
    claim("its model is registered", f"models:/{name}/1" in text)
    proof = check(Home(stage.cluster.home).final(name) / "outbox", stage.store)
    claim("its metrics are in MLflow once, too", proof.complete, proof)
    return name


def use_the_model(stage: Stage, name: str, picture: Path) -> None:
    """Load the model that was registered under a name from another program, and draw from it."""
    # The laptop's own user logs in to MLflow as with any other of its programs; until here only the cluster did.
    stage.laptop.environment |= dict(line.split("=", 1) for line in CREDENTIALS.splitlines())

    def load_it_back() -> None:
        found = json.loads(stage.laptop.python(LOAD_BACK.format(model=f"models:/{name}/1")))
        claim("MLflow loads the model and samples in one step", found["shape"] == [10, 8, 8, 3], found)
        claim("other labels give other pictures", found["differ"])

    with meanwhile(load_it_back):
        stage.laptop.types(f"sample models:/{name}/1 -n 100 --nfe 1,2 -o samples.png", there=False)
        shutil.copy(stage.laptop.folder / "samples.png", picture)
        claim("meansweep sample draws them", picture.stat().st_size > 1000, picture)


LOAD_BACK = """
import json, mlflow, numpy, pandas
model = mlflow.pyfunc.load_model("{model}")
pictures = model.predict(pandas.DataFrame(dict(label=range(10), seed=0)))
others = model.predict(pandas.DataFrame(dict(label=[3] * 10, seed=0)))
print(json.dumps(dict(shape=pictures.shape, differ=bool((pictures != others).any()))))
"""
