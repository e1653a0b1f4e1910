"""Every way in which PyTorch runs a model: a tiny model each, how its user calls it, and a layer
that is called inside.

`python -m tests.support.ways` writes the table of docs/reference/ways.md anew; the test of the ways
holds each of its rows.
"""

import pathlib
import warnings
from collections.abc import Callable

import torch

from cnnprobe.errors import ProbeError
from tests.support.ways import calls, programs, tensors, training
from tests.support.ways.verbs import VERBS
from tests.support.ways.way import Way

WAYS: dict[str, Callable[[], Way]] = {
    "eager": programs.eager,
    "torch.compile(model)": programs.compiled,
    "model.compile()": programs.compiled_in_place,
    "@torch.compile on forward": programs.compiled_method,
    "torch.compile on a child": programs.compiled_child,
    "torch.export(...).module()": programs.exported,
    "torch.export, dynamic shapes": programs.exported_with_dynamic_shapes,
    "torch.export.unflatten": programs.unflattened,
    "torch.jit.script": programs.scripted,
    "torch.jit.script on a child": programs.scripted_child,
    "torch.jit.freeze": programs.frozen_script,
    "torch.jit.freeze on a child": programs.frozen_child,
    "torch.jit.trace": programs.traced,
    "torch.jit.trace on a child": programs.traced_child,
    "torch.fx.symbolic_trace": programs.symbolically_traced,
    "torch.cond in the forward": programs.conditional,
    "autocast": training.autocast,
    "checkpoint, use_reentrant=False": training.checkpointed,
    "checkpoint, use_reentrant=True": training.checkpointed_reentrant_with_grad,
    "checkpoint, selective": training.selectively_checkpointed,
    "DataParallel": training.data_parallel,
    "DistributedDataParallel": training.distributed,
    "FSDP2 (fully_shard)": training.fully_sharded,
    "tensor parallel (DTensor)": training.tensor_parallel,
    "quantized, dynamic": training.quantized_dynamically,
    "quantized, static": training.quantized_statically,
    "parametrized": training.parametrized,
    "spectral_norm": training.spectral_norm,
    "lazy": training.lazy,
    "functional_call": training.functional_call,
    "vmap over the model": training.vmapped,
    "vmap over an ensemble": training.ensemble,
    "vmap in the forward": training.vmapped_inside,
    "torch.func.grad in the forward": training.differentiated,
    "torch.func.jvp in the forward": training.forward_mode,
    "autograd.grad in the forward": training.autograd_inside,
    "torch.inference_mode": training.in_inference_mode,
    "nested tensors": tensors.nested,
    "nested tensors, jagged": tensors.nested_jagged,
    "a packed sequence": tensors.packed_sequence,
    "sparse inputs": tensors.sparse_input,
    "sparse parameters (COO)": tensors.sparse_parameter,
    "sparse parameters (CSR)": tensors.sparse_csr_parameter,
    "complex numbers": tensors.complex_numbers,
    "a tensor subclass": tensors.subclass,
    "tv_tensors": tensors.tv_tensor,
    "meta device": tensors.meta,
    "FakeTensorMode": tensors.fake,
    "children on threads": calls.threads_inside,
    "the model on a thread": calls.on_a_thread,
    "forward is a generator": calls.generator,
    "forward is a coroutine": calls.coroutine,
    "called in coroutines": calls.in_a_coroutine,
    "an output that holds itself": calls.output_with_itself,
    "an output nested 3,000 deep": calls.output_nested_deeply,
    "an output computed on read": calls.output_computed_on_read,
    "an output of 20,000 tensors": calls.output_of_many_tensors,
    "a layer registered in the forward": calls.grown_in_forward,
    "a copy made in the forward": calls.copied_inside,
    "a hook that changes an output": calls.doubling_hook,
    "a module below itself": calls.below_itself,
}


def make(name: str) -> Way:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return WAYS[name]()


def cell(name: str, verb: str) -> str:
    """What a verb does with a way: "seen", "seen from outside", or "refused: why"."""
    way = make(name)
    try:
        with way.around(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return VERBS[verb](way, lambda: make(name))
    except ProbeError as refusal:
        return f"refused: {refusal.what}"


def row(name: str) -> str:
    """The row of the table."""
    return f"| {name} | " + " | ".join(cell(name, verb) for verb in VERBS) + " |"


def write_table() -> None:
    """Put the table into the docs."""
    page = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "ways.md"
    head = page.read_text().partition("| way |")[0]
    lines = [
        "| way | " + " | ".join(f"`{verb}`" for verb in VERBS) + " |",
        "|---" * (len(VERBS) + 1) + "|",
    ]
    page.write_text(head + "\n".join([*lines, *map(row, WAYS)]) + "\n")
