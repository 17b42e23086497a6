"""`model.checkpoint_activations`: the same bits, less kept, whatever way du/dt is had."""

import pytest
import torch

from meanflow_core.config import GuidanceConfig, ObjectiveConfig, load_config
from meanflow_core.derivative import record
from meanflow_core.errors import ConfigError
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives import meanflow_loss
from tests.meanflow_core.small_nets import REAL, batch

GUIDANCE = GuidanceConfig(omega=1.5, kappa=0.4)
LABELS, DROPPED = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 0, 1, 0]).bool()


def trained(name, again, method, dropout):
    """The loss, the gradients, the bytes that are kept for the backward pass, and how du/dt was had."""
    config, shape = REAL[name]
    config = type(config)(**{**vars(config), "dropout": dropout, "checkpoint_activations": again})
    net = randomise_(build_net(config, shape, 3)).double().train()
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    torch.manual_seed(4)
    objective = ObjectiveConfig(guidance=GUIDANCE, derivative=method)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = meanflow_loss(
            net, *batch(shape), labels=LABELS, dropped=DROPPED, null_label=3, objective=objective, rows=3, drops=2
        )
    size = sum(kept)
    gradients = torch.autograd.grad(result.loss, list(net.parameters()))
    return result.loss, gradients, size, record(net)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["dual", "jvp", "finite_difference"])
@pytest.mark.parametrize("name", ["mlp", "dit", "unet"])
def test_recomputed_blocks_give_the_same_bits_and_keep_less(name, method, dropout):
    plain, again = (trained(name, again, method, dropout) for again in (False, True))
    torch.testing.assert_close(again[:2], plain[:2], rtol=0, atol=0)
    assert again[2] < 0.8 * plain[2]
    assert [line.split()[2] for line in again[3]] == [line.split()[2] for line in plain[3]]


def test_it_is_not_compiled():
    words = ["model.name=mlp", "model.checkpoint_activations=true"]
    with pytest.raises(ConfigError, match=r"model\.checkpoint_activations: .*trainer\.compile.* one of the two"):
        load_config({}, [*words, "trainer.compile=true"])
    load_config({}, words)
