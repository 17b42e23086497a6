"""What stands on a picture of samples."""

import numpy as np

from meanflow_core import Trainer
from orchestrator.final.samples import captioned, sample_picture


def test_each_block_has_its_number_of_evaluations_above_it_and_the_words_below_break_into_lines():
    blocks = [np.full((50, 80, 3), shade, dtype=np.uint8) for shade in (90, 160)]
    short = captioned(blocks, ["1 NFE", "2 NFE"], "a")
    long = captioned(blocks, ["1 NFE", "2 NFE"], "word " * 60)
    assert short.shape[1] == long.shape[1] == 240  # 80 + 12 + 80 are too few for words
    assert long.shape[0] > short.shape[0] + 32
    for place, shade in ((0, 90), (92, 160)):
        assert (short[16:66, place : place + 80] == shade).all()
        assert short[:16, place : place + 60].min() < 100  # words
    assert (short[:16, 200:] == 255).all()
    assert short[70:].min() < 100
    assert (captioned(blocks, ["1 NFE", "2 NFE"], "b")[:70] == short[:70]).all()


def test_the_words_say_weights_step_and_classes(tmp_path):
    config = {
        "model": {"name": "mlp", "width": 16, "depth": 1},
        "data": {"name": "digits"},
        "trainer": {"steps": 40, "batch_size": 8},
        "evaluation": {"metrics": ["fid"], "samples": 100},
    }
    trainer = Trainer(config)
    trainer.train(3)
    weights = tmp_path / "digits-7" / "weights.safetensors"
    weights.parent.mkdir()
    trainer.export(weights)
    told = sample_picture(weights, tmp_path / "s.png", count=6, nfe=[1, 2], labels=[3, 5], seed=0)
    assert told == "digits-7, step 3 of 40, classes 3 and 5 in turn"
    assert (tmp_path / "s.png").stat().st_size > 500
    for count, labels, words in (
        (12, None, "classes 0 to 9 in turn"),
        (2, None, "classes 0 and 1 in turn"),
        (4, [7], "class 7"),
    ):
        told = sample_picture(weights, tmp_path / "s.png", count=count, nfe=[1], labels=labels, seed=0)
        assert told == f"digits-7, step 3 of 40, {words}"
