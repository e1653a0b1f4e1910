"""Pictures of the HTML page for the docs: `python -m benchmarks.screenshots [--to docs/images]`, made in a headless Chromium, in light and dark.

Look at them after each change of the page.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Callable

import torch

import cnnprobe
from benchmarks.chromium import Browser
from cnnprobe.report import Report
from reference_models import CNNModelAsWritten, SimpleCNN

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


PAGES: dict[str, tuple[Callable[[], Report], str]] = {
    "simplecnn": (simplecnn, ""),
    "crash": (crash, ""),
    "resnet50": (resnet50, ""),
}


def main() -> None:
    """Write `<name>-light.png` and `<name>-dark.png` for each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", default="docs/images", type=pathlib.Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    chosen = options.only.split(",") if options.only else list(PAGES)
    with Browser() as browser, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in chosen:
            make, mark = PAGES[name]
            path = pathlib.Path(folder) / f"{name}.html"
            path.write_text(make().to("html").replace(f"{ROOT}/", ""), encoding="utf-8")  # the same picture wherever it is made
            for dark in (False, True):
                page = browser.open(path, width=1280, height=800, dark=dark, hash=mark)
                page.screenshot(options.to / f"{name}-{'dark' if dark else 'light'}.png")
                page.close()


if __name__ == "__main__":
    main()
