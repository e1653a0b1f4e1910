"""What all tests share."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _freeze_what_was_imported():
    """The hundred thousands of objects that imports make are not visited by every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
