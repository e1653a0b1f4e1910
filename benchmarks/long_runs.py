"""What a long run takes under a monitor: memory, time, the log and the page at 1,000, 10,000,
100,000 and 1,000,000 steps.

    python -m benchmarks.long_runs [--steps 1000000] [--every 1] [--folder FOLDER]

A real loop of a tiny network, with a log and one thread. In the middle of it a loss of 99 stands
for one step: whether it is still there is said at the end, from the log as from the page. Memory is
the resident set now, as the system says it; time is CPU time of the process.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cnnprobe

FIRST = 1000  # steps until the first line
MIB = 2**20


def read_resident_set() -> int:
    """Bytes of this process that are in memory now; Linux alone."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def write_line(step: int, start: float, log: Path) -> None:
    spent = time.process_time() - start
    kept = sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*"))
    print(
        f"| {step:>9,} | {read_resident_set() / MIB:>6.1f} | {1e3 * spent / step:.3f} | "
        f"{log.stat().st_size / MIB:>5.1f} | {kept / MIB:>5.1f} |",
        flush=True,
    )


def train(log: Path, steps: int, every: int) -> Any:
    """Train under a monitor, and print a line at each power of ten."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(4, 1, 4, 4), torch.randint(0, 3, (4,))
    print("| steps | memory, MiB | a step, ms | log, MiB | with the one before, MiB |")
    print("|--:|--:|--:|--:|--:|")
    start, due = time.process_time(), FIRST
    with cnnprobe.monitor(model, optimizer, log=log, every=every) as watched:
        for step in range(steps):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            watched.loss(torch.tensor(99.0) if step == steps // 2 + 1 else loss)
            loss.backward()
            optimizer.step()
            if step + 1 in (due, steps):
                write_line(step + 1, start, log)
                due *= 10
    return watched


def describe(name: str, report: cnnprobe.Report, middle: int) -> str:
    """Whether the extreme and the first steps are in a report."""
    history = report.history
    curve = history.curve("loss")
    top = max(zip(curve.values, curve.steps, strict=True))
    return (
        f"{name}: {history.total:,} steps, first observed {history.steps[:2]}, first losses "
        f"{curve.steps[:2]}, greatest loss {top[0]:.0f} at step {top[1]:,} (was {middle:,})"
    )


def main() -> None:
    """Print the table, and what is left of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", default=1_000_000, type=int)
    parser.add_argument("--every", default=1, type=int)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(options.folder or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, {folder}\n")
    log, page = folder / "run.jsonl", folder / "run.html"
    watched = train(log, options.steps, options.every)
    watched.save(page)
    middle = options.steps // 2 + 1
    print(f"\npage: {page.stat().st_size / MIB:.2f} MiB")
    for path in (log, page):
        start = time.process_time()
        report = cnnprobe.load(path)
        spent = time.process_time() - start
        print(f"{describe(path.name, report, middle)}; read in {spent:.1f} s")


if __name__ == "__main__":
    main()
