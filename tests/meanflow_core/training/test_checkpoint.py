import subprocess
import sys

import pytest
import torch

from meanflow_core.training.checkpoint import (
    CheckpointError,
    is_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)

STATE = {
    "step": 7,
    "rate": 0.1,
    "big": 2**80,
    "nothing": None,
    "flag": True,
    "pair": (1, [2.5, "x"]),
    "by number": {0: {"moment": torch.arange(6.0).reshape(2, 3).T}, 1: {}},
    "__odd": {"__tensor__": "no tensor"},
    "half": torch.tensor(1.5, dtype=torch.bfloat16),
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_a_state_comes_back_equal(tmp_path):
    folder = tmp_path / "odd name's\nfolder" / "step-7"
    save_checkpoint(folder, STATE)
    assert equal(STATE, load_checkpoint(folder))
    assert is_checkpoint(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["step-7"]


def test_tensors_that_share_memory_are_kept_both(tmp_path):
    shared = torch.ones(3)
    save_checkpoint(tmp_path / "c", {"a": shared, "b": shared, "part": shared[1:]})
    state = load_checkpoint(tmp_path / "c")
    assert [state[k].tolist() for k in ("a", "b", "part")] == [[1, 1, 1], [1, 1, 1], [1, 1]]


def test_saving_again_replaces_the_checkpoint(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path / "c", {"step": step, "w": torch.full((2,), float(step))})
    assert load_checkpoint(tmp_path / "c")["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    save_checkpoint(tmp_path / "c", {"step": 1})
    (tmp_path / "c").rename(tmp_path / ".c.old")
    assert is_checkpoint(tmp_path / "c")
    assert load_checkpoint(tmp_path / "c") == {"step": 1}


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    save_checkpoint(tmp_path / "c", {"step": 1})
    with pytest.raises(TypeError, match=r"/deep/1.*neither a tensor nor plain data"):
        save_checkpoint(tmp_path / "c", {"deep": [0, object()]})
    assert load_checkpoint(tmp_path / "c") == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    folder = tmp_path / "c"
    save_checkpoint(folder, {"step": 12345, "w": torch.zeros(100)})
    file = folder / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[-5] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(folder) + ".*" + ("" if damage == "missing" else name)):
        load_checkpoint(folder)


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint here"):
        load_checkpoint(tmp_path / "nowhere")
    assert not is_checkpoint(tmp_path / "nowhere")


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c", {"step": 1})
    file = tmp_path / "c" / "state.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2"):
        load_checkpoint(tmp_path / "c")


def test_a_state_without_tensors_needs_no_torch(tmp_path):
    code = f"""
import sys
from meanflow_core.training.checkpoint import load_checkpoint, save_checkpoint
save_checkpoint({str(tmp_path / "c")!r}, {{"count": 3, "items": [1, (2, None)]}})
assert load_checkpoint({str(tmp_path / "c")!r}) == {{"count": 3, "items": [1, (2, None)]}}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_stand_alone_without_the_prefixes_of_wrappers(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"module._orig_mod.layer.weight": torch.eye(2)}, {"config": {"a": [1]}, "step": 3})
    weights, metadata = load_weights(path)
    assert list(weights) == ["layer.weight"]
    assert metadata == {"config": {"a": [1]}, "step": 3}
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged"):
        load_weights(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "none")
