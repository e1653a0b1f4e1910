"""The catalogue of operations, held against torch itself."""

import inspect
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe import operations
from cnnprobe.operations import OperationInfo, find_function, find_layer, find_signature
from tests.support.operation_samples import (
    Spelling,
    arguments,
    call,
    sample,
    spellings,
    spellings_of,
)
from tests.support.spelled import MATCHED, tensors

pytestmark = pytest.mark.filterwarnings("ignore")


ELSEWHERE = {"cuda", "xpu", "pin_memory"}  # they want another machine

# What the catalogue has, and an older torch has not.
HAS_LINEAR_LOSS = hasattr(nn, "LinearCrossEntropyLoss")
LATER_FUNCTIONS = set() if HAS_LINEAR_LOSS else {"linear_cross_entropy"}
LATER_LAYERS = set() if HAS_LINEAR_LOSS else {"LinearCrossEntropyLoss"}
NORMS = {"batch_norm", "instance_norm", "group_norm"}
NORMS_TAKE_BIAS = "bias" in inspect.signature(nn.BatchNorm2d).parameters


COMPOSITE = {
    "Container",
    "DataParallel",
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "RNNBase",
    "RNNCellBase",
    "Sequential",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
}


def is_usual(info: OperationInfo, spelling: Spelling) -> bool:
    """Whether a spelling has the defaults of the operation: torch.kl_div gives a loss a value."""
    usual = info.signature.defaults
    return all(usual.get(n, v) == v for n, v in find_signature(spelling.kind).defaults.items())


def run_usual(info: OperationInfo):
    torch.manual_seed(0)
    return call(info, next(s for s in spellings(info) if is_usual(info, s)), sample(info))


# -- spellings -------------------------------------------------------------------------------------


def test_each_name_spelling_and_layer_stands_once():
    for listed in (
        [info.name for info in operations.ALL],
        [spelling for info in operations.ALL for spelling in info.functions],
        [layer for info in operations.ALL for layer in info.layers],
    ):
        assert sorted(set(listed)) == sorted(listed)


def test_every_spelling_exists_in_torch():
    missing = [
        (info.name, name)
        for info in operations.ALL
        for name in info.functions
        if name not in ELSEWHERE | LATER_FUNCTIONS and not spellings_of(info, name)
    ]
    assert [] == missing


def test_what_torch_documents_as_an_alias_is_under_one_entry():
    found = 0
    for space in (torch, Tensor, F, torch.special, torch.linalg):
        place = {Tensor: "torch.Tensor"}.get(space, getattr(space, "__name__", ""))
        for name in dir(space):
            text = getattr(getattr(space, name), "__doc__", None)
            match = (
                re.search(r"Alias for :func:`~?([\w.]+)`\.?(?! with)", text)
                if isinstance(text, str)
                else None
            )
            if match is None:
                continue
            target = match[1] if match[1].startswith("torch.") else f"{place}.{match[1]}"
            assert find_function(target) is not None, target
            assert find_function(target) is find_function(f"{place}.{name}"), (place, name)
            found += 1
    assert found > 50


def test_every_spelling_gives_what_torch_gives_by_the_others():
    apart = []
    for info in MATCHED:
        if info.traits & {"random", "uninitialised"}:
            continue
        expected = tensors(run_usual(info))
        for spelling in spellings(info):
            if is_usual(info, spelling) and spelling.kind != "torch.Tensor.float_power_":
                actual = tensors(call(info, spelling, sample(info)))
                if len(expected) != len(actual) or not all(
                    torch.equal(e, a.to(e.dtype))
                    for e, a in zip(expected, actual, strict=True)
                    if e.dtype is not torch.complex32
                ):
                    apart.append(spelling.kind)
    assert [] == [kind for kind in apart if not kind.endswith("bmm")]


def test_in_place_forms_write_and_others_do_not():
    wrong = []
    for info in MATCHED:
        for spelling in spellings(info):
            args, keywords = arguments(info, spelling, sample(info))
            if not args or not isinstance(args[0], Tensor) or "float_power_" in spelling.kind:
                continue
            before = args[0]._version
            spelling.call(*args, **keywords)
            if (args[0]._version > before) != operations.is_writing(spelling.kind):
                wrong.append(spelling.kind)
    # Nothing is written there: the graph is left, or the size is the same already.
    silent = {
        "torch.detach_",
        "torch.Tensor.detach_",
        "torch.resize_as_",
        "torch.Tensor.resize_as_",
    }
    assert silent == set(wrong)


def test_operator_that_inverts_does_not_write():
    assert not operations.is_writing("torch.Tensor.__invert__")
    assert operations.is_writing("torch.Tensor.__ior__")


# -- arguments -------------------------------------------------------------------------------------


def test_arguments_and_defaults_are_those_of_torch_nn_functional():
    checked = 0
    for name in dir(F):
        function = getattr(F, name)
        info = find_function(f"torch.nn.functional.{name}")
        if info is None or inspect.isclass(function) or name.endswith(("_", "_with_indices")):
            continue
        ours = find_signature(f"torch.nn.functional.{name}")
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:  # a builtin: the first line of its page says it
            match = re.search(rf"{name}\((.*?)\)", (function.__doc__ or "").replace("\n", " "))
            names = [a.partition("=")[0].strip() for a in match[1].split(", ")] if match else []
            assert names == [*ours.names[: len(names)]], name
            continue
        if "args" in parameters:
            continue
        names = tuple(parameters)
        empty = inspect.Parameter.empty
        assert names == ours.names[: len(names)], name
        assert {n: p.default for n, p in parameters.items() if p.default is not empty} == {
            n: ours.defaults[n] for n in names if n in ours.defaults
        }, name
        checked += 1
    assert checked > 60


def test_tensors_among_the_arguments_are_those_of_torch_nn_functional():
    for name in dir(F):
        info = find_function(f"torch.nn.functional.{name}")
        function = getattr(F, name)
        if info is None or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        annotated = [
            n
            for n, p in parameters.items()
            if re.match(r"(torch\.)?Tensor", inspect.formatannotation(p.annotation))
        ]
        if annotated:
            assert set(annotated) - {"value"} <= set(info.signature.tensors), name


def test_every_layer_of_torch_nn_has_an_entry():
    layers = {n for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    assert {n for n in layers if find_layer(n) is None} == COMPOSITE
    named = {layer for info in operations.ALL for layer in info.layers}
    assert named - layers == {"NonDynamicallyQuantizableLinear"} | LATER_LAYERS


def test_constructors_are_those_of_the_layers():
    for info in operations.ALL:
        ours = info.constructor
        if ours is None or not ours.names:  # Identity(*args), Sigmoid(*args)
            continue
        if set(info.layers) <= LATER_LAYERS:
            continue
        parameters = inspect.signature(getattr(nn, info.layers[0])).parameters
        if "args" in parameters:
            parameters = inspect.signature(nn.RNNBase).parameters
            names = [n for n in parameters if n not in ("mode", "proj_size", "device", "dtype")]
            assert names == [n for n in ours.names if n not in ("nonlinearity", "proj_size")]
            continue
        theirs = {n: p.default for n, p in parameters.items() if n not in ("device", "dtype")}
        is_later = info.name in NORMS and not NORMS_TAKE_BIAS
        names = [n for n in ours.names if n != "bias" or not is_later]
        assert names == [n for n in theirs if n in ours.names], info.name
        defaults = {n: v for n, v in ours.defaults.items() if n in names}
        assert {n: theirs[n] for n in names if theirs[n] is not inspect.Parameter.empty} == defaults


# -- losses ----------------------------------------------------------------------------------------


def test_every_loss_of_torch_is_one():
    layers = {
        n
        for n in vars(nn)
        if n.endswith("Loss") or n in ("NLLLoss2d", "AdaptiveLogSoftmaxWithLoss")
    }
    functions = {n for n in dir(F) if n.endswith("_loss") or "cross_entropy" in n or n == "kl_div"}
    losses = [info for info in operations.ALL if info.family == "loss"]
    assert layers == {layer for info in losses for layer in info.layers} - LATER_LAYERS
    assert functions == {name for info in losses for name in info.functions} - LATER_FUNCTIONS


def test_a_loss_of_classes_wants_indices_and_one_of_probabilities_does_not():
    x = torch.rand(4, 6)
    for name in operations.select(trait="classes"):
        getattr(F, name)(x, torch.tensor([0, 1, 2, 5]))
    for name in operations.select(trait="probabilities") | operations.select(trait="values"):
        getattr(F, name)(x, torch.rand(4, 6))
        with pytest.raises((RuntimeError, ValueError)):
            getattr(F, name)(x, torch.tensor([0, 1, 2, 5]))


# -- the catalogue itself ------------------------------------------------------------------------


def test_catalogue_is_there_without_torch():
    code = "import sys, cnnprobe.operations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_function_elsewhere_of_the_same_name_is_unknown():
    assert find_function("torch.ops.mine.add") is None
    assert find_function("torch.fft.norm") is None


def test_an_overload_of_torch_ops_is_the_operation_itself():
    assert find_function("torch.ops.aten.add.Tensor").name == "add"
    assert find_function("torch.ops.aten.native_layer_norm.default") is None
