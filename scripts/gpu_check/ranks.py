"""Two processes that share one GPU: DDP and FSDP over gloo; and what NCCL says to that."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from meanflow_core.training.trainer import Trainer
from orchestrator.worker.failure_kinds import classify
from scripts.gpu_check.check import Figures, Setting, Wrong, demand
from scripts.gpu_check.nets import relative, trainer, training


def ranks(setting: Setting) -> Figures:
    """Train and evaluate on two ranks, and compare with one process; then ask NCCL for the same."""
    alone = trainer(training(setting, "dit", guided=True))
    alone.train(10)
    scores = alone.evaluate()
    found = _spawn(setting, "gloo")
    figures: Figures = {"gloo": [{k: v for k, v in one.items() if k not in ("weights", "cases")} for one in found]}
    rules = {"gloo_ran": all("error" not in one for one in found)}
    if rules["gloo_ran"]:
        weights = [torch.from_numpy(one["weights"]) for one in found]
        distance = relative(weights[0], _weights(alone))
        figures["weights_apart"] = float(f"{distance:.1e}")
        apart = max(abs(found[0]["scores"][key] - value) / abs(value) for key, value in scores.items())
        figures["scores_apart"] = float(f"{apart:.1e}")
        rules |= {"two_train_as_one": distance < 1e-3, "ranks_agree": bool(torch.equal(*weights))}
        rules["two_evaluate_as_one"] = apart < 2e-2
    if setting.on_gpu:
        said = _spawn(setting, "nccl")
        figures["nccl"] = [one.get("error", "ran") for one in said]
        figures["nccl_class"] = [one.get("class", "none") for one in said]
        rules["two_ranks_on_one_gpu_are_no_fault_of_the_machine"] = "bug" in figures["nccl_class"]
    return demand(figures, **rules)


def shards(setting: Setting) -> Figures:
    """Train a network in shards on two ranks, by each way to du/dt, and compare with one process that has all of it."""
    ways = ("auto", "jvp", "finite_difference")
    found = _spawn(setting, "gloo", *({"trainer__sharding": "fsdp", "objective__derivative": way} for way in ways))
    errors = [one["error"] for one in found if "error" in one]
    if errors:
        raise Wrong("two ranks do not train in shards", {"errors": errors})
    figures: Figures = {}
    rules = {}
    for index, way in enumerate(ways):
        alone = trainer(training(setting, "dit", guided=True, objective__derivative=way))
        alone.train(10)
        ranks = [one["cases"][index] for one in found]
        distance = relative(torch.from_numpy(ranks[0]["weights"]), _weights(alone))
        held = [one["held"] / _weights(alone).numel() for one in ranks]
        figures[way] = {"weights_apart": float(f"{distance:.1e}"), "share_held": [round(share, 2) for share in held]}
        rules[f"{way}_trains_as_one"] = distance < 1e-3
        rules[f"{way}_is_in_shards"] = max(held) < 0.6
    return demand(figures, **rules)


def _weights(made: Trainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().cpu() for weight in made.weights()["raw"].values()])


def _spawn(setting: Setting, backend: str, *cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each of two ranks answers: the first case's figures, and all of them as `cases`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")  # this process has used the GPU: a fork of it could not
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [
        context.Process(target=_rank, args=(rank, port, backend, setting, cases or ({},), pipes[rank][1]))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = []
    for (receiver, _), process in zip(pipes, processes, strict=True):
        found.append(receiver.recv() if receiver.poll(60) else {"error": "no answer in 60 s", "class": "none"})
        process.kill()
    return found


def _rank(
    rank: int, port: int, backend: str, setting: Setting, cases: Sequence[dict[str, Any]], sender: Connection
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        dist.init_process_group(backend, rank=rank, world_size=2)
        answers = [_answer(setting, values) for values in cases]
        sender.send({**answers[0], "cases": answers})
    except Exception as error:
        sender.send({"error": str(error)[-300:], "class": classify(error).kind})
    os._exit(0)


def _answer(setting: Setting, values: dict[str, Any]) -> dict[str, Any]:
    made = trainer(training(setting, "dit", guided=True, **values))
    made.train(10)
    held = sum(entry["exp_avg"].numel() for entry in made._optimizer.state_dict().values())
    return {"device": str(made.device), "held": held, "scores": made.evaluate(), "weights": _weights(made).numpy()}
