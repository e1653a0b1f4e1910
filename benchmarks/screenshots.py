"""Pictures of the HTML page for the docs: `python -m benchmarks.screenshots [--to docs/images]`,
made in a headless Chromium, in light and dark.

Look at them after each change of the page.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Callable

import torch
from PIL import Image
from torch import nn

import cnnprobe
from benchmarks.chromium import Browser
from cnnprobe.report import Report
from reference_models import CNNModelAsWritten, SimpleCNN

_COLOURS = 160
ROOT = pathlib.Path(__file__).resolve().parent.parent


def simplecnn() -> Report:
    """The small network of the tutorial."""
    return cnnprobe.probe(SimpleCNN(10).eval(), torch.randn(4, 3, 32, 32))


def crash() -> Report:
    """The network that lost its flatten."""
    return cnnprobe.probe(CNNModelAsWritten().eval(), torch.randn(2, 3, 32, 32))


def resnet50() -> Report:
    """A network of a usual size."""
    from torchvision import models

    return cnnprobe.probe(models.resnet50().eval(), torch.randn(1, 3, 224, 224))


def training() -> Report:
    """A training whose learning rate is far too high, so that ReLUs die, as a monitor has watched
    it.
    """
    model, loss_fn = SimpleCNN(10), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    images, targets = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    with torch.enable_grad(), cnnprobe.monitor(model, optimizer) as watched:
        for _ in range(40):
            optimizer.zero_grad()
            loss_fn(model(images), targets).backward()
            optimizer.step()
    return watched.report


PAGES: dict[str, tuple[Callable[[], Report], str]] = {
    "simplecnn": (simplecnn, ""),
    "crash": (crash, ""),
    "resnet50": (resnet50, ""),
    "training": (training, ""),
}


def main() -> None:
    """Write `<name>-light.png` and `<name>-dark.png` for each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", default="docs/images", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--width", default=1280, type=int)
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    chosen = options.only.split(",") if options.only else list(PAGES)
    with Browser() as browser, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in chosen:
            make, mark = PAGES[name]
            path = pathlib.Path(folder) / f"{name}.html"
            path.write_text(
                make().to("html").replace(f"{ROOT}/", ""), encoding="utf-8"
            )  # the same picture wherever it is made
            for dark in (False, True):
                page = browser.open(path, width=options.width, height=800, dark=dark, hash=mark)
                picture = options.to / f"{name}-{'dark' if dark else 'light'}.png"
                page.screenshot(picture)
                Image.open(picture).convert("RGB").quantize(_COLOURS).save(
                    picture, optimize=True
                )  # half as heavy, and no eye sees it
                page.close()


if __name__ == "__main__":
    main()
