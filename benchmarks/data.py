"""What `inspect_data` costs beside iterating the loader once: `python -m benchmarks.data [--rounds
5]`.

Photographs of 500 × 375 as JPEG files, augmented to 224 × 224 as torchvision's reference training
does; crops of 32 × 32 in memory. Both are read plainly and by `inspect_data` in turn, in one
process and one thread; times are processor time, so that a busy machine does not count, and a ratio
is the median.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

import cnnprobe

SAMPLES = 1024
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def write_photos(root: pathlib.Path, count: int) -> datasets.ImageFolder:
    """A folder of four classes, of crops of scikit-image's photographs."""
    from skimage import data, transform

    random = np.random.default_rng(0)
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photo = transform.resize(getattr(data, name)(), (750, 1000))
        (root / name).mkdir()
        for i in range(count // 4):
            y, x = random.integers(0, 375), random.integers(0, 500)
            crop = (photo[y : y + 375, x : x + 500] * 255).astype(np.uint8)
            Image.fromarray(crop).save(root / name / f"{i}.jpg", quality=90)
    steps = [v2.ToImage(), v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*_IMAGENET)]
    return datasets.ImageFolder(root, v2.Compose([*steps, *last]))


def iterate(loader: DataLoader[Any]) -> None:
    """The plain loop over the sample."""
    read = 0
    for images, _ in loader:
        read += len(images)
        if read >= SAMPLES:
            return


def inspect(loader: DataLoader[Any]) -> None:
    """The same sample, measured and judged."""
    cnnprobe.inspect_data(loader, samples=SAMPLES, seconds=None, pictures=False)


def time_it(act: Callable[[DataLoader[Any]], None], loader: DataLoader[Any]) -> float:
    """The seconds of processor time."""
    begun = time.process_time()
    act(loader)
    return time.process_time() - begun


def main() -> None:
    """Print one line for each loader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default=5, type=int)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'loader':>10} {'loop ms':>9} {'ours ms':>9} {'ratio':>6} {'ms a sample':>12}")
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(pathlib.Path(folder), SAMPLES)
        crops = TensorDataset(torch.randn(4 * SAMPLES, 3, 32, 32), torch.arange(4 * SAMPLES) % 10)
        for name, given in (("JPEG files", photos), ("in memory", crops)):
            loader = DataLoader(given, 64, shuffle=True)
            iterate(loader)
            inspect(loader)
            pairs = [(time_it(iterate, loader), time_it(inspect, loader)) for _ in range(rounds)]
            plain, ours = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(
                f"{name:>10} {plain:9.1f} {ours:9.1f} {ratio:6.2f} {(ours - plain) / SAMPLES:12.3f}"
            )


if __name__ == "__main__":
    main()
