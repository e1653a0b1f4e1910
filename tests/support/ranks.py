"""Runs a program of `rank_programs` on several ranks of gloo, each a process of its own that ends
by itself.
"""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

from torch.distributed import TCPStore

from tests.support.python import ROOT, run_python


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(program, *arguments, ranks, programs="tests.support.rank_programs", has_agent=False):
    """What each rank has ended with, by rank.

    `programs` is the module that has the program. With an agent the store is here, as in that of
    torchrun, else in rank 0.
    """
    port = find_port()
    shared = {
        **os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_USE_AGENT_STORE": str(has_agent),
    }  # fmt: skip
    store = (
        TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False) if has_agent else None
    )

    def run(rank):
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run_python("-m", programs, program, *arguments, cwd=ROOT, env=env)

    with ThreadPoolExecutor(ranks) as pool:
        ended = list(pool.map(run, range(ranks)))
    del store  # lives as long as the ranks
    return ended
