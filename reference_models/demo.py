"""Shows cnnprobe on SimpleCNN and real images, offline: `python -m reference_models.demo [FOLDER]`.

Makes the images once, probes the model on a batch of them, saves the report, and trains for one
short epoch under `cnnprobe.record`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import cnnprobe
from reference_models.data import loaders, photos, real_batch
from reference_models.models import SimpleCNN
from reference_models.train import adam, train_epoch

BATCH = 64
IMAGES = 512  # of the training set: one short epoch


def main() -> int:
    """Run the demonstration; data and reports go into the folder that is named, or this one."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    torch.manual_seed(0)
    images, _ = real_batch(folder / "data", n=8)
    model = SimpleCNN(10)
    report = cnnprobe.probe(model, images)
    print(report)
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("simple_cnn.json", "simple_cnn.html"):
        report.save(out / name)
        print(f"\nsaved {out / name}", end="")
    print("\n\nTraining for one short epoch on crops of eight photos, every forward pass recorded:")
    splits = photos(folder / "data")
    batches, _ = loaders(splits, classes=splits.classes, batch_size=BATCH, seed=0)
    some = [batch for batch, _ in zip(batches, range(IMAGES // BATCH), strict=False)]
    with cnnprobe.record(model) as recording:
        loss, accuracy = train_epoch(model, some, nn.CrossEntropyLoss(), adam(model))
    print(
        f"{recording.forwards} forward passes, mean loss {loss:.3f}, "
        f"accuracy while it learnt {accuracy:.1%} (chance: {1 / len(splits.classes):.1%})"
    )
    for name, when in (("first", recording.traces[0]), ("last", recording.traces[-1])):
        stats = when["fc1"].outputs[0].stats or {}
        print(
            f"fc1 in the {name} pass: mean {stats['mean']:+.4f}, "
            f"standard deviation {stats['std']:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
