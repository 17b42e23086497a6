"""The recipes in deploy/: parsed, checked against what they must contain, and run with stand-ins where they can be."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests import ROOT

DEPLOY = ROOT / "deploy"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return [pod["spec"]["containers"][0] | {"pod": pod["spec"]} for pod in pods]


def test_the_rayjob_gives_every_node_the_same_image_home_token_and_room_for_objects():
    job = read("kuberay-rayjob.yaml")
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    found = containers(job)
    assert len({container["image"] for container in found}) == 1
    for container in found:
        environment = {item["name"]: item for item in container["env"]}
        assert environment["MLFLOW_TRACKING_PASSWORD"]["valueFrom"]["secretKeyRef"]["optional"] is True
        assert not environment.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}  # the operator's, on its own pods too
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["home"] == environment["MEANSWEEP_HOME"]["value"]
        assert mounts["shm"] == "/dev/shm"
        assert {volume["name"] for volume in container["pod"]["volumes"]} >= mounts.keys()
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_rayjob_runs_no_trial_on_its_head_and_knows_the_installed_ray():
    cluster = read("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]


def test_the_rayjobs_entrypoint_starts_a_sweep_and_goes_on_with_it_by_the_same_file_alone(tmp_path):
    entrypoint = read("kuberay-rayjob.yaml")["spec"]["entrypoint"]
    calls = stand_ins(tmp_path, {"meansweep": ""})
    run(shlex.split(entrypoint), tmp_path, {"SWEEP": "s", "MEANSWEEP_HOME": str(tmp_path / "home")})
    assert calls() == ["meansweep run /sweep/sweep.yaml --name s --resume"]


def test_ray_itself_accepts_the_cluster_file():
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = read("ray-up.yaml")
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in option for option in config["docker"]["run_options"])
    assert all("--dashboard-host=127.0.0.1" in line for line in config["head_start_ray_commands"] if "--head" in line)


def stand_ins(folder: Path, scripts: dict[str, str]) -> Any:
    """Put commands of these names before the real ones; each notes its call, then does what its script says."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in scripts.items():
        file = programs / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\n{script}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return lambda: (folder / "calls").read_text().splitlines()


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    found = {**os.environ, **environment, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(command, env=found, capture_output=True, text=True, timeout=60, cwd=folder)


NAP = "sleep 20 &>/dev/null & wait"
"""Of a driver: what it starts and leaves behind holds none of the pipes that are read here."""
SLURM = {
    "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "8",
    "SLURM_GPUS_ON_NODE": "2",
}  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_the_slurm_script_starts_ray_on_all_nodes_and_runs_or_resumes_the_sweep(tmp_path, known):
    calls = stand_ins(
        tmp_path,
        {
            "scontrol": "echo n1; sleep 0.2; echo n2; echo n3",  # who stops listening after the first must not fail it
            "srun": 'case "$*" in *hostname*) echo 10.0.0.1 ;; *) exec sleep 30 ;; esac',
            "ray": "",
            # a driver outlives the start of the other nodes, which the script begins before it and does not wait for
            "meansweep": f"for _ in $(seq 300); do grep -q -e --exclude {tmp_path}/calls && exit 0; sleep 0.1; done",
        },
    )
    (tmp_path / "digits.yaml").touch()
    if known:
        (tmp_path / "meansweep-data/sweeps/digits").mkdir(parents=True)
        (tmp_path / "meansweep-data/sweeps/digits/journal.jsonl").touch()
    environment = {**SLURM, "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = run(["bash", str(DEPLOY / "slurm.sbatch"), "digits.yaml"], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    lines = calls()
    port = 20000 + 4711
    heads = [line for line in lines if "--head" in line]
    others = [line for line in lines if line.startswith("srun") and "--address" in line]
    assert len(heads) == len(others) == 1
    assert f"-w n1 ray start --head --block --node-ip-address=10.0.0.1 --port={port}" in heads[0]
    assert "--num-cpus=8 --num-gpus=2" in heads[0]
    assert "--nodes=2 --ntasks=2" in others[0]
    assert f"--exclude=n1 ray start --block --address=10.0.0.1:{port}" in others[0]
    commands = [line for line in lines if line.startswith("meansweep")]
    run_it = f"meansweep run {tmp_path / 'digits.yaml'} --name digits --resume"
    assert commands == ([run_it] if known else ["meansweep doctor", run_it])


def test_the_slurm_script_ends_with_the_drivers_exit_code(tmp_path):
    stand_ins(
        tmp_path,
        {"scontrol": "echo n1", "srun": "echo 10.0.0.1", "ray": "", "meansweep": '[ "$1" = doctor ] || exit 3'},
    )
    (tmp_path / "s.yaml").touch()
    environment = {**SLURM, "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert run(["bash", str(DEPLOY / "slurm.sbatch"), "s.yaml"], tmp_path, environment).returncode == 3


def signalled(tmp_path, signal):
    """Run the Slurm recipe, have its driver send the job a signal, and return the commands that it typed."""
    calls = stand_ins(
        tmp_path,
        {
            "scontrol": "echo n1",
            "srun": "echo 10.0.0.1",
            "ray": "",
            "meansweep": f"trap 'exit 130' TERM; [ $1 = doctor ] || {{ kill -{signal} $PPID; {NAP}; }}",
        },
    )
    (tmp_path / "s.yaml").touch()
    environment = {**SLURM, "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert run(["bash", str(DEPLOY / "slurm.sbatch"), "s.yaml"], tmp_path, environment).returncode == 130
    return calls()


def test_a_slurm_job_that_is_told_to_end_ends_its_driver_and_is_not_queued_again_by_itself(tmp_path):
    """Whoever preempts it queues it again, and whoever cancels it does not want it."""
    assert not any("requeue" in call for call in signalled(tmp_path, "TERM"))


def test_a_signal_that_comes_before_the_driver_is_not_lost(tmp_path):
    stand_in = f"trap 'exit 130' TERM; if [ $1 = doctor ]; then kill -USR1 $PPID; else {NAP}; fi"
    calls = stand_ins(tmp_path, {"scontrol": "echo n1", "srun": "echo 10.0.0.1", "ray": "", "meansweep": stand_in})
    (tmp_path / "s.yaml").touch()
    environment = {**SLURM, "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    ended = run(["bash", str(DEPLOY / "slurm.sbatch"), "s.yaml"], tmp_path, environment)
    assert ended.returncode in (130, 143)  # 143: it had no trap yet
    assert calls()[-1] == "scontrol requeue 4711"


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(names: set[str]) -> set[str]:
    """The names and those of all that they need here, as far as it is installed. Not CUDA's: torch pins them."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found or name.startswith(("nvidia-cu", "nvidia-n", "triton", "cuda-")):
            continue
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        rules = map(Requirement, lines)
        names |= {plain(rule.name) for rule in rules if rule.marker is None or rule.marker.evaluate({"extra": ""})}
    return found


def test_the_image_installs_locked_versions_of_everything_and_those_that_the_tests_have():
    lines = [line for line in (DEPLOY / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    locked = {plain(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    pinned = [line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line]
    assert {plain(n): v for n, v in pinned if plain(n) in locked} == {
        plain(n): locked[plain(n)] for n, _ in pinned if plain(n) in locked
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    direct = {plain(Requirement(line).name) for line in project} | {"s3fs", "gcsfs", "nvidia-ml-py"}
    assert sorted(needed(direct) - locked.keys()) == []
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("requirements.lock") == 3
    assert "constraints.txt" not in text


def test_before_its_time_limit_the_slurm_job_ends_its_driver_and_is_queued_again(tmp_path):
    assert signalled(tmp_path, "USR1")[-1] == "scontrol requeue 4711"


def test_gpu_nodes_are_found_and_nothing_runs_as_root():
    for container in containers(read("kuberay-rayjob.yaml")):
        assert container["pod"]["securityContext"]["runAsNonRoot"] is True
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert {"nvidia.com/gpu"} == {rule["key"] for rule in container["pod"]["tolerations"]}


def test_the_image_can_compile_sees_gpus_and_downloads_nothing_again_for_a_change_of_the_code():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(lines)
    assert re.search(r"apt-get install .*\bgcc\b", text)
    assert "NVIDIA_VISIBLE_DEVICES=all" in text
    assert {"s3fs", "gcsfs", "nvidia-ml-py"} <= set(re.findall(r"[\w-]+", text))
    assert re.search(r"^USER (?!0|root)", text, re.M)
    code = next(n for n, line in enumerate(lines) if line.startswith("COPY meanflow_core"))
    installs = [n for n, line in enumerate(lines) if "pip install" in line and "--no-deps" not in line]
    assert len(installs) == 2
    assert max(installs) < code


def test_the_image_holds_what_the_package_needs():
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
