import pytest
import torch

from meanflow_core.config import WeightConfig
from meanflow_core.flow.weighting import adaptive_weight

ERROR = torch.tensor([0.0, 0.5, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0, 2.0])
def test_the_weight_is_the_inverse_power_of_the_summed_error(power):
    weight = adaptive_weight(ERROR, WeightConfig(power=power, eps=0.01))
    torch.testing.assert_close(weight, 1 / (ERROR + 0.01) ** power, rtol=1e-14, atol=0)


def test_power_zero_is_the_plain_squared_error():
    assert torch.equal(adaptive_weight(ERROR, WeightConfig(power=0)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_no_gradient_flows_through_the_weight(power):
    error = ERROR.clone().requires_grad_()
    assert not adaptive_weight(error, WeightConfig(power=power)).requires_grad
