"""What the pytest plugin costs a suite that does not use it: CPU time of whole processes, with and
    without it in turns.

python -m benchmarks.pytest_startup [--pairs 15] [--tests 200]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def cpu_seconds(options, folder):
    """User and system time of one run of pytest, of the child alone."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
        str(folder / "test_trivial.py"),
    ]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(pairs, tests):
    """Ratios of CPU time with the plugin to without it, in pairs whose order alternates."""
    ratios, without = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = (
            "import pytest\n\n@pytest.mark.parametrize('k', range({}))\ndef test_it(k):\n    "
            "assert k >= 0\n"
        )
        (folder / "test_trivial.py").write_text(code.format(tests))
        sides = {"without": [], "with": ["-p", "cnnprobe.pytest_plugin"]}
        for options in sides.values():
            cpu_seconds(options, folder)  # the bytecode is written
        for k in range(pairs):
            order = list(sides) if k % 2 else list(sides)[::-1]
            seconds = {side: cpu_seconds(sides[side], folder) for side in order}
            ratios.append(seconds["with"] / seconds["without"])
            without.append(seconds["without"])
    return ratios, without


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tests", type=int, default=200)
    given = parser.parse_args()
    ratios, without = measure(given.pairs, given.tests)
    low, _, high = statistics.quantiles(ratios)
    print(
        f"{given.tests} trivial tests, {given.pairs} pairs: {statistics.median(ratios):.3f} times "
        f"the CPU time (quartiles {low:.3f} to {high:.3f}) of "
        f"{statistics.median(without) * 1000:.0f} ms without the plugin"
    )


if __name__ == "__main__":
    main()
