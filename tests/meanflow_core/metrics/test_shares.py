"""Metrics of samples that several processes have a share of each: only sums pass between them."""

import threading

import pytest
import torch

from meanflow_core.config import DigitsConfig, EvaluationConfig
from meanflow_core.data import build_dataset
from meanflow_core.metrics import build_evaluator


class Ranks:
    """Processes played by threads; `sent` is the largest number of values in a tensor that passed between them."""

    def __init__(self, size):
        self.slots, self.barrier, self.sent = [None] * size, threading.Barrier(size), 0

    def total(self, rank):
        def sum_of_all(tensor):
            self.slots[rank] = tensor
            self.sent = max(self.sent, tensor.numel())
            self.barrier.wait(60)
            result = torch.stack(self.slots).sum(0)
            self.barrier.wait(60)
            return result

        return sum_of_all


def test_shares_of_unequal_size_are_judged_as_the_whole():
    dataset = build_dataset(DigitsConfig())
    evaluator = build_evaluator(EvaluationConfig(samples=600), dataset)
    assert evaluator.sums_suffice  # fid and accuracy
    x, labels = dataset.batch(torch.arange(600), generator=torch.Generator())
    x = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    whole = evaluator.evaluate(x, labels)
    assert 0.2 < whole["accuracy"] < 1

    ranks, found, cuts = Ranks(3), [None] * 3, [0, 7, 310, 600]

    def run(rank):
        own = slice(cuts[rank], cuts[rank + 1])
        found[rank] = evaluator.evaluate(x[own], labels[own], ranks.total(rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for one in found:
        assert one == pytest.approx(whole, rel=1e-9)
    width = evaluator._features(x[:2]).shape[1]
    assert ranks.sent == width**2  # a covariance, and no row


def test_metrics_that_need_the_rows_ask_for_all_of_them():
    dataset = build_dataset(DigitsConfig())
    assert not build_evaluator(EvaluationConfig(metrics=["fid", "mmd"]), dataset).sums_suffice
