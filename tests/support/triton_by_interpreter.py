"""Runs the Triton kernel's arithmetic on the CPU, by Triton's own interpreter; started by
test_stats_cuda with TRITON_INTERPRET=1.
"""

import sys

import torch
from test_stats_engines import DATA, as_dict, assert_agrees, oracle, oracle_histogram

from cnnprobe.stats import RowTable, accelerated


def main() -> None:
    measured = 0
    # Every fifth value: of many blocks still, with all kinds of values, as the interpreter is slow.
    data = {name: x if len(x) < 5 else x[::5].contiguous() for name, x in DATA.items()}
    for name, x in data.items():
        table = RowTable(2, histogram=True)
        if not accelerated.write(x, table, 1):
            continue
        stats = table.read(1)
        assert_agrees(stats.as_mapping(), oracle(x))
        assert oracle_histogram(x) == as_dict(stats.histogram), name
        assert table.read(0) is None
        measured += 1
    table = RowTable(len(data))  # all in one transfer, without histograms
    written = {row: x for row, x in enumerate(data.values()) if accelerated.write(x, table, row)}
    for row, x in written.items():
        assert_agrees(table.read(row).as_mapping(), oracle(x))
    sys.stdout.write(f"{measured} data sets measured\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
