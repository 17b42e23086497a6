"""Train the classifier whose features the digits' Frechet distance uses, on the training rows alone.

    python scripts/train_digits_classifier.py [digits | mnist] [OUT.safetensors]

A minute on one CPU thread for the digits, ten for mnist. The held-out rows are looked at once,
at the end, for the record.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from meanflow_core.config import DigitsConfig, MnistConfig
from meanflow_core.data import build_dataset
from meanflow_core.metrics.digits_classifier import WEIGHTS, DigitsClassifier

SEED, BATCH, LR = 0, 128, 2e-3
STEPS = {"digits": 2500, "mnist": 1200}
DATA = {"digits": DigitsConfig(), "mnist": MnistConfig()}
LEAST_ACCURACY = 0.97


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image by at most a pixel each way, half of the time: the digits are not all centred."""
    rows, columns = torch.randint(-1, 2, (2, len(x)), generator=generator)
    moved = torch.rand(len(x), generator=generator) < 0.5
    side = x.shape[-1]
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    out = [
        image[:, 1 + r : 1 + r + side, 1 + c : 1 + c + side] if move else image[:, 1:-1, 1:-1]
        for image, r, c, move in zip(padded, rows.tolist(), columns.tolist(), moved.tolist(), strict=True)
    ]
    return torch.stack(out)


def train(name: str) -> tuple[DigitsClassifier, dict[str, object]]:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    data = build_dataset(DATA[name])
    x, labels = data.batch(torch.arange(len(data)), generator=generator)
    net = DigitsClassifier()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS[name])
    for _ in range(STEPS[name]):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(net(shifted(x[rows], generator)), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held, held_labels = data.held_out()
    with torch.no_grad():
        accuracy = (net.eval()(held).argmax(1) == held_labels).double().mean().item()
    record = {
        "held_out_accuracy": round(accuracy, 5),
        "held_out_rows": len(held),
        "training_rows": len(data),
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "seed": SEED,
        "steps": STEPS[name],
        "batch": BATCH,
        "lr": LR,
        "torch": torch.__version__,
    }
    return net, record


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "digits"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else WEIGHTS[name]
    net, record = train(name)
    if record["held_out_accuracy"] < LEAST_ACCURACY:
        raise SystemExit(f"held-out accuracy {record['held_out_accuracy']} is below {LEAST_ACCURACY}; nothing written")
    save_file(net.state_dict(), out)
    record["sha256"] = hashlib.sha256(out.read_bytes()).hexdigest()
    out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
