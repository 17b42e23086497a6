"""Two processes on gloo. One spawn runs every check, so that torch is imported once a process."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from meanflow_core.config import PRESETS, ImageFolderConfig, load_config
from meanflow_core.data.encode_latents import encode_latents
from meanflow_core.data.image_folder import ImageFolder
from meanflow_core.distributed import World, choose_device
from meanflow_core.errors import ConfigError
from meanflow_core.objectives.loss import meanflow_loss
from meanflow_core.run.folder import RunFolder
from meanflow_core.run.runner import train_in_folder
from meanflow_core.training.batches import Batches
from meanflow_core.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from meanflow_core.training.trainer import Trainer
from tests.meanflow_core.data.test_latents import PoolVae, make_images
from tests.meanflow_core.training import sharded

CONFIG = {
    "seed": 5,
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "optimizer": {"lr": 1e-3, "beta1": 0.0},
    "ema": {"decays": [0.9]},
    "trainer": {"steps": 8, "batch_size": 24, "log_every": 2, "device": "cpu"},
    "evaluation": {"samples": 51, "nfe": [1], "batch_size": 8},
    "objective": {"guidance": {"scale": 2.0, "kappa": 0.5, "dropout": 0.2}, "time": {"ratio": 0.3}},
}
FAMILY = {
    **{name: [] for name in PRESETS if name != "meanflow"},
    "alphaflow": ["trainer.steps=4"],  # a of 1, a number and 0 in turn
    **{name: ["objective.teacher=0.9"] for name in ("shortcut", "split", "lsd")},
}
WRAPPERS = (
    "func.jvp through DDP", "functional.jvp through DDP", "jvp on .module", "forward through DDP, jvp on .module",
    "whole loss inside DDP",
)  # fmt: skip


def gradient(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def joint_gradient(trainer):
    """The gradient of the global batch by one process, without wrapper, from the trainer's weights."""
    batches = Batches(trainer.config, trainer.dataset, trainer.device, World())
    part = next(batches.parts(trainer.step, trainer.images_seen))
    net = trainer.net
    saved = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    result = meanflow_loss(
        net, part.x, part.noise, part.r, part.t, labels=part.labels, dropped=part.dropped, null_label=10,
        objective=trainer.config.objective, rows=part.spanning_rows,
    )  # fmt: skip
    result.loss.backward()
    found = gradient(net)
    for p, g in zip(net.parameters(), saved, strict=True):
        p.grad = g
    return found


def arrangement(kind, rank):
    """Whether the gradient is the mean over the ranks, in one of the ways to put a jvp and DDP together."""
    torch.manual_seed(0)
    net = nn.Linear(3, 3)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))

    def loss_of(call):
        if kind.startswith("functional"):  # two backward passes instead of forward mode
            u, du = torch.autograd.functional.jvp(call, x, torch.ones_like(x), create_graph=True)
        else:
            u, du = torch.func.jvp(call, (x,), (torch.ones_like(x),))
        return (u - du.detach() + x).square().mean()

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return loss_of(self.net)

    whole = kind == "whole loss inside DDP"
    wrapped = World.current().wrap(Loss() if whole else net, torch.device("cpu"))

    def loss():
        if whole:
            return wrapped(x)
        if kind == "forward through DDP, jvp on .module":
            with torch.no_grad():
                _, du = torch.func.jvp(net, (x,), (torch.ones_like(x),))
            return (wrapped(x) - du + x).square().mean()
        return loss_of(wrapped if "jvp through DDP" in kind else wrapped.module)

    for _ in range(2):  # the first step of the wrong arrangement may pass: DDP builds its buckets after it
        net.zero_grad()
        try:
            loss().backward()
        except RuntimeError:
            return "raises"
    mine = gradient(net)
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    return "synchronised" if torch.allclose(both[0], both[1]) else "not synchronised"


def trained(name):
    """The weights, and the teacher's, after three steps by an objective."""
    trainer = Trainer(load_config(CONFIG, [f"objective.name={name}", *FAMILY[name]]))
    trainer.train(3)
    state = trainer.state_dict()
    return {part: {k: v.clone() for k, v in state.get(part, {}).items()} for part in ("net", "teacher")}


class Counted:
    """A torch Dataset that notes which rows are read; `noisy` ones draw random numbers for each."""

    num_classes = 3

    def __init__(self, noisy):
        self.noisy, self.read = noisy, []

    def __len__(self):
        return 60

    def __getitem__(self, number):
        self.read.append(number)
        x = torch.linspace(-1, 1, 4) * (number + 1) / 60
        return (x + 0.1 * torch.randn(4) if self.noisy else x), number % 3


def trained_on(data):
    """The weights after three steps on data of one's own, and the rows that those steps read."""
    trainer = Trainer(load_config(CONFIG, ["evaluation.metrics=[mmd]"]), data=data)
    data.read.clear()
    trainer.train(3)
    return {k: v.clone() for k, v in trainer.net.state_dict().items()}, list(data.read)


ROUNDED = {
    "float32": [],
    "bf16": ["trainer.precision=bf16"],
    "parts": ["trainer.precision=bf16", "trainer.accumulation=2"],
}


def rounded(*words):
    """The weights after three steps, each of which is nearly linear in the gradient, that come to a distance."""
    made = Trainer(load_config(CONFIG, ["optimizer.lr=0.3", "optimizer.eps=1.0", *words]))
    made.train(3)
    return {name: tensor.clone() for name, tensor in made.net.state_dict().items()}


def compiled():
    """The graphs of a compiled training on two processes, and its weights beside those of an uncompiled one."""
    graphs, plain, ends = [], nn.Module.compile, []

    def run(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    nn.Module.compile = lambda self, *, mode, **options: plain(self, backend=run, **options)
    try:
        for compile in (False, True):  # parameters of several of DDP's buckets
            words = ["model.width=160", "model.depth=4", f"trainer.compile={compile}"]
            trainer = Trainer(load_config(CONFIG, words))
            trainer.train(2)
            ends.append({k: v.clone() for k, v in trainer.net.state_dict().items()})
    finally:
        nn.Module.compile = plain
    return {"graphs": len(graphs), "ends": ends}


def rank_main(rank, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    config = load_config(CONFIG)
    trainer = Trainer(config)
    trainer.train(4)
    parts = list(trainer._batches.parts(trainer.step, trainer.images_seen))
    found["rows"] = [part.spanning_rows for part in parts]
    found["drops"] = [part.dropped_count for part in parts]
    trainer._loss(parts[0])[0].backward()
    found["gradient"], found["joint"] = gradient(trainer.net), joint_gradient(trainer)
    trainer.net.zero_grad()
    found["evaluation"] = trainer.evaluate()
    found["weights"] = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    if rank == 0:
        save_checkpoint(f"{folder}/two", trainer.state_dict())
    found["rows logged"] = trainer.train(4)[-1][1]
    found["end"] = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    again = Trainer(load_config(CONFIG, ["trainer.accumulation=3"]))
    again.load_state_dict(load_checkpoint(f"{folder}/one"))
    again.train(4)
    found["end of one's"] = {k: v.clone() for k, v in again.net.state_dict().items()}
    found["family"] = {name: trained(name) for name in FAMILY}
    found["own rows"] = {noisy: trained_on(Counted(noisy)) for noisy in (False, True)}
    vae = PoolVae()
    index = encode(folder, f"{folder}/latents of two", vae, World.current())
    found["encoded"] = index, vae.calls
    found["compiled"] = compiled()
    found["sharded"] = sharded.found_by(rank, folder)
    found["half precision"] = {kind: rounded(*words) for kind, words in ROUNDED.items()}
    found["arrangements"] = {kind: arrangement(kind, rank) for kind in WRAPPERS}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    os._exit(0)  # past torch's own end of a process, which has aborted once; what was found is on disk


def encode(folder, out, vae, world):
    images = ImageFolder(ImageFolderConfig(path=f"{folder}/images", size=8, flip=False))
    return encode_latents(images, Path(out), vae, vae_name="pool", batch_size=1, shard_images=2, world=world)


@pytest.fixture(scope="module")
def alone():
    trainer = Trainer(load_config(CONFIG))
    trainer.train(4)
    return trainer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, alone):
    folder = tmp_path_factory.mktemp("ranks")
    save_checkpoint(folder / "one", alone.state_dict())
    half = sharded.trainer()
    half.train(2)
    save_checkpoint(folder / "unsharded", half.state_dict())
    make_images(folder / "images")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, (port, str(folder)), nprocs=2)
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_the_gradient_of_two_processes_is_that_of_the_joint_batch(ranks):
    _, found = ranks
    assert found[0]["gradient"].abs().max() > 0.01
    for one in found:
        torch.testing.assert_close(one["gradient"], one["joint"], rtol=1e-4, atol=1e-5)


def test_the_ratio_and_the_dropped_labels_are_counted_on_the_global_batch(ranks):
    _, found = ranks
    assert sorted(found[0]["rows"] + found[1]["rows"]) == [3, 4]  # 30 % of 24 rows: 7, where each half would round to 4
    assert sum(found[0]["drops"] + found[1]["drops"]) == 5  # 20 % of 24


def test_two_processes_train_as_one_does(ranks, alone):
    _, found = ranks
    for one in found:
        torch.testing.assert_close(one["weights"], dict(alone.net.state_dict()), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(found[0]["weights"], found[1]["weights"], rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILY)
def test_two_processes_train_as_one_does_by_every_kind_of_target(ranks, name):
    _, found = ranks
    wanted = trained(name)
    assert len(wanted["teacher"]) == len(wanted["net"]) * (name in ("shortcut", "split", "lsd"))
    for one in found:
        torch.testing.assert_close(one["family"][name], wanted, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_process_reads_its_own_rows_alone_unless_they_draw_random_numbers(ranks, noisy):
    _, found = ranks
    weights, read = trained_on(Counted(noisy))
    assert len(read) == 3 * 24
    for rank, one in enumerate(found):
        torch.testing.assert_close(one["own rows"][noisy][0], weights, rtol=1e-3, atol=2e-5)
        if noisy:  # they follow one another: found out at the first batch, which is then read whole
            assert one["own rows"][noisy][1] == read[rank:24:2] + read
        else:
            assert one["own rows"][noisy][1] == read[rank::2]


def test_a_compiled_loss_is_one_graph_on_several_processes_too(ranks):
    _, found = ranks
    for one in found:
        assert one["compiled"]["graphs"] == 1
        torch.testing.assert_close(*one["compiled"]["ends"], rtol=1e-4, atol=1e-5)


def test_two_processes_make_the_latents_of_one_each_its_share(ranks):
    folder, found = ranks
    vae = PoolVae()
    index = encode(folder, folder / "latents of one", vae, World())
    assert vae.calls == 7
    assert [one["encoded"] for one in found] == [(index, 4), (index, 3)]  # shards 0, 2 and 1, 3, the last of one image


def test_an_evaluation_shared_by_two_processes_is_that_of_one(ranks, alone):
    _, found = ranks
    assert found[0]["evaluation"] == found[1]["evaluation"]
    assert found[0]["evaluation"] == pytest.approx(alone.evaluate(), rel=1e-3)


def test_a_training_goes_on_with_another_number_of_processes(ranks, alone):
    folder, found = ranks
    after = Trainer(load_config(CONFIG))
    after.load_state_dict(load_checkpoint(folder / "two"))
    row = after.train(4)[-1][1]
    for one in found:
        torch.testing.assert_close(one["end"], dict(after.net.state_dict()), rtol=1e-3, atol=5e-5)
        torch.testing.assert_close(one["end of one's"], dict(after.net.state_dict()), rtol=1e-3, atol=5e-5)
    for name in ("train/loss", "train/squared_error", "train/velocity_error", "train/grad_norm", "train/du_dt_norm"):
        assert found[0]["rows logged"][name] == pytest.approx(row[name], rel=1e-3)


def test_which_ways_to_put_a_derivative_and_ddp_together_synchronise(ranks):
    _, found = ranks
    assert found[0]["arrangements"] == {
        "func.jvp through DDP": "raises",
        "functional.jvp through DDP": "synchronised",
        "jvp on .module": "not synchronised",
        "forward through DDP, jvp on .module": "synchronised",
        "whole loss inside DDP": "synchronised",
    }


def apart(one, other):
    """The distance of two sets of weights, as a share of their size."""
    one, other = (torch.cat([tensor.flatten().double() for tensor in found.values()]) for found in (one, other))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", [kind for kind in ROUNDED if kind != "float32"])
def test_two_processes_round_in_half_precision_as_one_does(ranks, kind):
    _, found = ranks
    wanted = rounded(*ROUNDED[kind])
    start = Trainer(load_config(CONFIG, ROUNDED[kind])).net.state_dict()
    rounding = apart(wanted, rounded())
    assert 1e-7 < rounding < 0.01 * apart(wanted, start)
    for one in found:
        # a gradient is rounded before the halves are added, so that it is off by as much as rounding it at all
        assert apart(one["half precision"][kind], wanted) < rounding
        assert apart(one["half precision"]["float32"], rounded()) < 1e-2 * rounding
        assert all(tensor.dtype == torch.float32 for tensor in one["half precision"][kind].values())


@pytest.mark.parametrize("kind", [*sharded.KINDS, sharded.OWN])
def test_a_network_in_shards_trains_as_a_whole_one(ranks, kind):
    _, found = ranks
    words = sharded.KINDS.get(kind, [sharded.OWN])
    wanted, way = sharded.weights_after(2, *words)
    start, _ = sharded.weights_after(0, *words)
    assert apart(wanted, start) > 1e-3
    for one in found:
        weights, way_here = one["sharded"]["weights"][kind]
        assert apart(weights, wanted) < 1e-6
        assert way_here == way


def test_each_process_holds_half_of_a_network_in_shards(ranks):
    _, found = ranks
    whole = sum(parameter.numel() for parameter in sharded.trainer().net.parameters())
    for one in found:
        assert one["sharded"]["in shards"]
        assert all(held < 0.6 * whole for held in one["sharded"]["held"])
    for held in zip(*(one["sharded"]["held"] for one in found), strict=True):
        assert sum(held) == whole


def test_a_checkpoint_of_shards_is_read_by_one_process_and_the_other_way_round(ranks):
    folder, found = ranks
    whole = sharded.trainer()
    whole.train(2)
    saved = load_checkpoint(folder / "sharded")
    assert apart(saved["net"], whole.net.state_dict()) < 1e-6
    assert apart(saved["ema"]["length_0.05"], whole.state_dict()["ema"]["length_0.05"]) < 1e-6
    after = sharded.trainer()
    after.load_state_dict(saved)
    for made in (whole, after):
        made.train(2)
    wanted = whole.weights()["ema_0.9"]
    assert apart(after.weights()["ema_0.9"], wanted) < 1e-6
    for one in found:
        assert apart(one["sharded"]["gone on"], wanted) < 1e-6


def test_a_network_in_shards_is_judged_and_drawn_as_a_whole_one(ranks):
    _, found = ranks
    whole = sharded.trainer()
    whole.train(2)
    for one in found:
        assert one["sharded"]["evaluation"] == pytest.approx(whole.evaluate(), rel=1e-3)
        assert (one["sharded"]["grid"].int() - torch.from_numpy(whole.sample_grid().copy()).int()).abs().max() <= 1


def test_a_training_in_shards_leaves_a_folder_like_any_other(ranks, tmp_path):
    folder, _ = ranks
    train_in_folder(load_config(sharded.CONFIG, [*sharded.DIT, "ema.length=0.08"]), tmp_path / "whole")
    runs = [RunFolder(root) for root in (folder / "run of shards", tmp_path / "whole")]
    assert runs[0].steps() == runs[1].steps() == [2, 4]
    assert runs[0].differences(load_config(sharded.CONFIG, sharded.DIT)) == ""
    (weights, metadata), (wanted, _) = (load_weights(run.weights) for run in runs)
    assert metadata["weights"] == "length_0.08"
    assert apart(weights, wanted) < 1e-6


def test_what_shards_cannot_do_is_refused_before_the_start():
    for words, rule in (
        (["trainer.compile=true"], "gathers weights by hooks, which one compiled graph cannot hold"),
        (["objective.name=split", "objective.teacher=0.9"], "has no shards of a teacher yet"),
    ):
        with pytest.raises(ConfigError, match=rule):
            load_config(sharded.CONFIG, ["trainer.sharding=fsdp", *words])


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no GPU"):
            choose_device("cuda")
