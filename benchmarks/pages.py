"""How heavy the HTML page is and how fast it opens: `python -m benchmarks.pages [--rounds 5]`.

Models of 20, 200 and 2,000 modules, each with statistics and histograms. Times are medians of
processor time, so that a busy machine does not count: of `Report.to("html")`, and of the main
thread of a headless Chromium until the page has loaded and its script has run, for a search, and
for a sort.
"""

import argparse
import gzip
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import cnnprobe
from benchmarks.chromium import Browser

_SEARCH = (
    "(() => { const i = document.querySelector('input[type=search]'); i.value = 'conv 7'; "
    "i.dispatchEvent(new Event('input')); return new Promise(r => setTimeout(() => "
    "requestAnimationFrame(() => setTimeout(r)), 200)) })()"
)
_SORT = (
    "(() => { document.querySelector('thead .n button').click(); return new Promise(r => "
    "requestAnimationFrame(() => setTimeout(r))) })()"
)


class Block(nn.Module):
    """Four modules with itself: convolution, normalisation, activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Once through."""
        return x + self.act(self.norm(self.conv(x)))


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """What came back, and the seconds of processor time."""
    start = time.process_time()
    return act(), time.process_time() - start


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default=5, type=int)
    rounds = parser.parse_args().rounds
    print(
        f"{'modules':>8} {'rows':>6} {'file kB':>8} {'gzip kB':>8} {'write s':>8} "
        f"{'open ms':>8} {'search ms':>10} {'sort ms':>8}"
    )
    with Browser() as browser, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for blocks in (5, 50, 500):
            report = cnnprobe.probe(
                nn.Sequential(*[Block() for _ in range(blocks)]).eval(), torch.randn(1, 8, 16, 16)
            )
            path = pathlib.Path(folder) / "page.html"
            written, opened, searched, ordered = [], [], [], []
            for _ in range(rounds):
                text, seconds = timed(lambda: report.to("html"))  # noqa: B023 - called at once
                path.write_text(text, encoding="utf-8")
                written.append(seconds)
                page = browser.open(path, measured=True)
                at = [page.busy()]
                for script in (_SEARCH, _SORT):
                    page.run(script)
                    at.append(page.busy())
                page.close()
                for times, took in zip(
                    (opened, searched, ordered), (at[0], at[1] - at[0], at[2] - at[1]), strict=True
                ):
                    times.append(took)
            size, packed = len(text.encode()) / 1000, len(gzip.compress(text.encode())) / 1000
            middle = [statistics.median(times) for times in (written, opened, searched, ordered)]
            rows = len(report.trace.calls)
            print(
                f"{len(report.trace.modules):>8,} {rows:>6,} {size:>8,.0f} {packed:>8,.0f} "
                f"{middle[0]:>8.2f} {middle[1]:>8,.0f} {middle[2]:>10,.0f} {middle[3]:>8,.0f}"
            )


if __name__ == "__main__":
    main()
