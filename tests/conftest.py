"""What all tests share."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


def pytest_collection_finish():
    """The hundred thousands of objects that the imports made are not visited by each collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
