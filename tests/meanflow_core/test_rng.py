import traceback

import pytest
import torch

from meanflow_core.rng import Streams, seeded, stable_seed


def test_a_stable_seed_is_the_same_in_every_process_and_version():
    assert stable_seed(3, "noise", 7) == 1012311117371834351


def test_streams_differ_by_seed_name_and_step_and_repeat():
    draw = lambda seed, name, step: torch.rand(4, generator=Streams(seed).at(name, step)).tolist()  # noqa: E731
    keys = [(0, "noise", 1), (1, "noise", 1), (0, "times", 1), (0, "noise", 2)]
    assert len({tuple(draw(*key)) for key in keys}) == 4
    assert draw(*keys[0]) == draw(*keys[0])


def test_a_seeded_block_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, "dropout"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, "dropout"):
        assert torch.equal(torch.rand(3), inside)


def test_a_seeded_block_draws_what_torch_draws_and_asks_nothing_of_a_gpu_that_was_never_started(monkeypatch):
    torch.manual_seed(stable_seed(1, "dropout", 7))
    expected = torch.rand(3)
    monkeypatch.setattr(traceback, "format_stack", lambda: pytest.fail("torch writes down who asked a GPU for this"))
    with seeded(1, "dropout", 7):
        assert torch.equal(torch.rand(3), expected)
