"""What tests on a GPU share."""

import contextlib
import warnings

import torch


@contextlib.contextmanager
def refuse_to_wait():
    """Raise where the host would wait for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
