"""What each verb does with each way in which PyTorch runs a model is what the table in the docs
says.
"""

import pathlib

import pytest
import torch

import cnnprobe
from tests.support import ways
from tests.support.memory import measure_allocations

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "ways.md"


@pytest.fixture(autouse=True)
def no_process_group_left():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def skip_what_torch_lacks(name):
    if name == "FSDP2 (fully_shard)" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip(f"torch {torch.__version__} has FSDP2 for GPUs only")


@pytest.mark.parametrize("name", ways.WAYS)
def test_every_verb_does_with_a_way_what_the_docs_say(name):
    skip_what_torch_lacks(name)
    assert ways.row(name) in PAGE.read_text().splitlines()
    assert 0 == torch._C._len_torch_function_stack()


def test_docs_list_every_way_once():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert ["way", *ways.WAYS] == [line.split(" | ")[0].removeprefix("| ") for line in rows]


# Other ways allocate besides what tensors need: a compiler, the saved state of a generator.
EXACT = [
    "eager", "torch.fx.symbolic_trace", "autocast", "DataParallel", "parametrized", "spectral_norm", "functional_call",
    "vmap over the model", "vmap in the forward", "a tensor subclass", "the model on a thread", "called in coroutines",
    "an output nested 3,000 deep", "an output computed on read", "a copy made in the forward",
    "lazy",
]  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_memory_of_a_way_is_to_the_byte_what_torchs_allocator_gave(name):
    way = ways.make(name)
    found = cnnprobe.memory(way.model, *way.args, loss_fn=way.loss).find_way()
    again = ways.make(name)
    (x,) = again.args
    real = measure_allocations(again.model, x, forward=lambda x: again.loss(again.model(x)))
    assert real == max(found.given.peak, found.step + len(x) * found.step_slope)
