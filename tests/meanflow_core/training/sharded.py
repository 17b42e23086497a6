"""What `test_distributed.py` asks of networks in shards, as each of its two processes finds it."""

import torch
from torch import nn

from meanflow_core.config import load_config
from meanflow_core.distributed import World
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.run.runner import train_in_folder
from meanflow_core.training.checkpoint import load_checkpoint, save_checkpoint
from meanflow_core.training.trainer import Trainer

CONFIG = {
    "seed": 5,
    "optimizer": {"lr": 0.3, "eps": 1.0, "clip_norm": 0.7},  # so that a step is nearly linear in the gradient
    "ema": {"decays": [0.9], "lengths": [0.05], "snapshot_every": 2},
    "trainer": {"steps": 4, "batch_size": 24, "log_every": 2, "eval_every": 4, "checkpoint_every": 2, "device": "cpu"},
    "evaluation": {"samples": 20, "nfe": [1], "batch_size": 8},
    "objective": {"guidance": {"scale": 2.0, "kappa": 0.5, "dropout": 0.2}, "time": {"ratio": 0.3}},
}
DIT = ["model.name=dit", "model.width=9", "model.depth=2", "model.heads=3", "model.patch=4"]
UNET = ["model.name=unet", "model.channels=8", "model.blocks=1", "model.channel_mult=[1]", "model.attention=[]"]
KINDS = {
    "by rules, in two parts": ["trainer.accumulation=2"],
    "a second pass, recomputed": ["objective.derivative=jvp", "model.checkpoint_activations=true"],
    "central differences": ["objective.derivative=finite_difference"],
    "a network of nested lists": [*UNET, "model.dropout=0"],
    "a split that moves": ["objective.name=alphaflow", "trainer.steps=3"],
    "nothing to differentiate": ["objective.time.ratio=0"],
}
OWN = "an operation without a rule"


class Own(nn.Module):
    """Blocks with an operation that no rule of the row dual carries; the batch moves to another dimension in them."""

    def __init__(self):
        super().__init__()
        self.inlet, self.outlet = nn.Linear(64 + 2, 6), nn.Linear(6, 64)
        self.blocks = nn.ModuleList(OwnBlock() for _ in range(2))

    def forward(self, z, r, t, labels=None):
        x = self.inlet(torch.cat([z.flatten(1), t[:, None], (t - r)[:, None]], 1))
        for block in self.blocks:
            x = block(x, scale=t[:, None])
        return self.outlet(x).reshape(z.shape)


class OwnBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x, scale):
        return x + torch.logaddexp(self.linear(x).movedim(0, 1).movedim(1, 0), scale)


def _model(words):
    return [] if words[:1] == tuple(UNET[:1]) else DIT


def trainer(*words):
    config = load_config(CONFIG, ["trainer.sharding=fsdp", *_model(words), *(word for word in words if word != OWN)])
    torch.manual_seed(2)
    net = Own() if OWN in words else build_net(config.model, (1, 8, 8), 10)
    return Trainer(config, net=randomise_(net))


def weights_after(steps, *words):
    made = trainer(*words)
    made.train(steps)
    return {name: tensor.clone() for name, tensor in made.weights()["raw"].items()}, made.derivative_record()


def found_by(rank, folder):
    """Return what one of two processes finds."""
    found = {"weights": {kind: weights_after(2, *words) for kind, words in KINDS.items()}}
    found["weights"][OWN] = weights_after(2, OWN)
    made = trainer()
    made.train(2)
    found["in shards"] = all(hasattr(p, "placements") for p in made.net.parameters())
    found["held"] = [
        sum(entry["exp_avg"].numel() for entry in made._optimizer.state_dict().values()),
        sum(tensor.numel() for tensor in made._ema.averages["ema_0.9"].values()),
    ]
    state = made.state_dict()
    if World.current().first:
        save_checkpoint(f"{folder}/sharded", state)
    found["evaluation"], found["grid"] = made.evaluate(), torch.from_numpy(made.sample_grid().copy())
    again = trainer()
    again.load_state_dict(load_checkpoint(f"{folder}/unsharded"))
    again.train(2)
    found["gone on"] = {name: tensor.clone() for name, tensor in again.weights()["ema_0.9"].items()}
    train_in_folder(load_config(CONFIG, [*DIT, "trainer.sharding=fsdp", "ema.length=0.08"]), f"{folder}/run of shards")
    return found
