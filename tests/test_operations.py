"""The catalogue of operations, held against torch itself."""

import inspect
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from operation_samples import Spelling, arguments, call, sample, spellings, spellings_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnprobe import operations
from cnnprobe.operations import OperationInfo, find_function, find_layer, find_signature

pytestmark = pytest.mark.filterwarnings("ignore")
ELSEWHERE = {"cuda", "xpu", "pin_memory"}  # they want another machine
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
# Complex numbers out of pairs, places of values, counts by value; a statement.
UNLIKE = {"view_as_complex", "nonzero", "argwhere", "histc", "bincount", "setitem"}
MATCHED = [info for info in operations.ALL if spellings(info)]


def first(info: OperationInfo) -> Spelling:
    return next((s for s in spellings(info) if not s.in_place), spellings(info)[0])


def run(info: OperationInfo, values=None):
    torch.manual_seed(0)
    return call(info, first(info), sample(info) if values is None else values)


def tensors(value) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Tensor):
        return [value]
    return [t for each in value for t in tensors(each)] if isinstance(value, list | tuple) else []


def with_gradients(values):
    for tensor in tensors(values):
        tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())
    return values


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
        if name not in ELSEWHERE and not spellings_of(info, name)
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
    assert named - layers == {"NonDynamicallyQuantizableLinear"}


def test_constructors_are_those_of_the_layers():
    for info in operations.ALL:
        ours = info.constructor
        if ours is None or not ours.names:  # Identity(*args), Sigmoid(*args)
            continue
        parameters = inspect.signature(getattr(nn, info.layers[0])).parameters
        if "args" in parameters:
            parameters = inspect.signature(nn.RNNBase).parameters
            names = [n for n in parameters if n not in ("mode", "proj_size", "device", "dtype")]
            assert names == [n for n in ours.names if n not in ("nonlinearity", "proj_size")]
            continue
        theirs = {n: p.default for n, p in parameters.items() if n not in ("device", "dtype")}
        assert list(ours.names) == [n for n in theirs if n in ours.names], info.name
        empty = inspect.Parameter.empty
        assert {n: theirs[n] for n in ours.names if theirs[n] is not empty} == dict(ours.defaults)


# -- losses ----------------------------------------------------------------------------------------


def test_every_loss_of_torch_is_one():
    layers = {
        n
        for n in vars(nn)
        if n.endswith("Loss") or n in ("NLLLoss2d", "AdaptiveLogSoftmaxWithLoss")
    }
    functions = {n for n in dir(F) if n.endswith("_loss") or "cross_entropy" in n or n == "kl_div"}
    losses = [info for info in operations.ALL if info.family == "loss"]
    assert layers == {layer for info in losses for layer in info.layers}
    assert functions == {name for info in losses for name in info.functions}


def test_a_loss_of_classes_wants_indices_and_one_of_probabilities_does_not():
    x = torch.rand(4, 6)
    for name in operations.select(trait="classes"):
        getattr(F, name)(x, torch.tensor([0, 1, 2, 5]))
    for name in operations.select(trait="probabilities") | operations.select(trait="values"):
        getattr(F, name)(x, torch.rand(4, 6))
        with pytest.raises((RuntimeError, ValueError)):
            getattr(F, name)(x, torch.tensor([0, 1, 2, 5]))


# -- what it does to shapes and values -----------------------------------------------------------


def shapes_fit(info: OperationInfo, given: list[Tensor], made: list[Tensor]) -> bool:
    size, total = made[0].numel(), sum(t.numel() for t in given)
    same = made[0].shape == given[0].shape
    match info.effect:
        case "keeps" | "elementwise" | "fills":
            return same
        case "broadcasts":
            return made[0].shape == torch.broadcast_shapes(*(t.shape for t in given))
        case "scans":
            return given[0].shape in [t.shape for t in made]
        case "rearranges" | "turns" | "reshapes":
            return size == given[0].numel() or given[0].is_complex()
        case "selects" | "reduces":
            return max(t.numel() for t in made) <= max(t.numel() for t in given)
        case "expands" | "pads":
            return sum(t.numel() for t in made) >= given[0].numel()
        case "joins":
            return size >= total
        case "windows" | "resizes":
            return made[0].dim() == given[0].dim() or info.name in ("unfold", "fold")
        case "compares":
            return size == 1
    return True


def test_effects_on_shapes_are_those_of_torch():
    wrong = []
    for info in MATCHED:
        values = sample(info)
        given, made = tensors(values), tensors(run(info, values))
        if info.effect == "asks":
            fits = not made
        elif info.effect == "compares":
            fits = all(
                tensors(call(info, s, values))[0].numel() == 1
                for s in spellings(info)
                if s.kind.startswith("torch.nn")
            )
        else:
            fits = info.name in UNLIKE or not given or shapes_fit(info, given, made)
        if not fits:
            wrong.append(info.name)
    assert [] == wrong


@pytest.mark.parametrize("effect", ["reshapes", "turns", "rearranges", "selects", "keeps"])
def test_operations_that_only_move_values_make_no_new_ones(effect):
    for info in MATCHED:
        if info.effect == effect and not info.traits & {"cuts", "flat"} and info.name != "chalf":
            given, made = tensors(sample(info))[0], tensors(run(info))[0]
            if given.is_complex() or made.is_complex():
                continue
            old, new = given.flatten().double(), made.flatten().double()
            tolerance = 5e-3 if made.dtype in (torch.float16, torch.bfloat16) else 0
            near = (new[:, None] - old[None, :]).abs().amin(1)
            assert near.amax() <= tolerance, info.name


def test_operations_on_each_value_read_no_other():
    for info in MATCHED:
        if (
            info.effect != "elementwise"
            or info.family in ("norm", "dropout")
            or "random" in info.traits
        ):
            continue
        values = sample(info)
        x = values["input"]
        before = run(info, values)
        x.view(-1)[0] = x.view(-1)[1]
        after = run(info, values)
        assert torch.equal(before.flatten()[1:], after.flatten()[1:]), info.name


def test_views_are_what_shares_the_memory_of_its_input():
    wrong = []
    for info in MATCHED:
        if info.family in ("cast", "identity", "writing") or info.name == "conj_physical":
            continue  # `to` gives back the tensor itself where there is nothing to do
        values = sample(info)
        memory = {t.untyped_storage().data_ptr() for t in tensors(values) if t.numel()}
        made = tensors(run(info, values))
        shares = bool(made) and made[0].untyped_storage().data_ptr() in memory
        if shares != ("view" in info.traits) and not first(info).in_place:
            wrong.append(info.name)
    assert [] == wrong


def test_cutting_operations_are_those_without_a_grad_fn():
    wrong = []
    for info in MATCHED:
        if not any(t.is_floating_point() for t in tensors(sample(info))):
            continue
        if info.name in ("batch_norm", "setitem", "numpy", "__array__", "soft_margin_loss"):
            continue  # they take no tensor that requires grad, or not there
        made = tensors(run(info, with_gradients(sample(info))))
        is_cut = not (made and made[0].requires_grad)
        if is_cut != ("cuts" in info.traits):
            wrong.append(info.name)
    assert [] == wrong


def test_flat_operations_have_a_gradient_of_zero():
    for info in MATCHED:
        if info.effect not in ("elementwise", "broadcasts", "makes") or "cuts" in info.traits:
            continue
        values = with_gradients(sample(info))
        source = [t for t in tensors(values) if t.requires_grad]
        if info.name in ("batch_norm", "binomial", "affine_grid") or not source:
            continue
        made = tensors(run(info, values))[0]
        try:
            (gradient,) = torch.autograd.grad(made.sum(), source[:1])
        except (RuntimeError, NotImplementedError):  # without a derivative
            continue
        assert bool((gradient == 0).all()) == ("flat" in info.traits), info.name


def test_random_operations_are_those_that_draw():
    wrong = []
    for info in MATCHED:
        if info.name in ("rrelu", "fractional_max_pool2d", "fractional_max_pool3d"):
            continue  # they draw where they have something to draw
        if "uninitialised" not in info.traits:
            spelling, values = first(info), sample(info)
            torch.manual_seed(0)
            state = torch.get_rng_state()
            call(info, spelling, values)
            if torch.equal(state, torch.get_rng_state()) == ("random" in info.traits):
                wrong.append(info.name)
    assert [] == wrong


def test_commuting_operations_take_their_operands_in_either_order():
    for info in MATCHED:
        names = info.signature.names
        if info.effect != "broadcasts" or names[:2] != ("input", "other") or info.name == "isclose":
            continue
        values = sample(info)
        turned = {**values, "input": values["other"], "other": values["input"]}
        same = torch.equal(run(info, values), run(info, turned))
        assert same == ("commutes" in info.traits), info.name


def test_mirrored_operations_are_the_others_with_their_operands_in_the_other_order():
    for info in MATCHED:
        if info.mirrors:
            values = sample(info)
            plain = getattr(torch, info.mirrors)
            given = [v if isinstance(v, Tensor) else torch.tensor(v) for v in values.values()]
            assert torch.equal(plain(*given), run(info, values)), info.name


def test_operations_that_want_one_dtype_raise_for_two():
    wrong = []
    for info in MATCHED:
        floats = [
            n for n, v in sample(info).items() if isinstance(v, Tensor) and v.is_floating_point()
        ]
        if len(floats) < 2:
            continue
        raised = False
        for name in floats[1:]:
            values = sample(info)
            values[name] = values[name].double()
            try:
                run(info, values)
            except RuntimeError:
                raised = True
        if raised != ("one-dtype" in info.traits):
            wrong.append(info.name)
    assert [] == wrong


def test_every_operation_in_which_torch_counts_flops_is_a_product():
    counted = set()
    for info in MATCHED:
        with FlopCounterMode(display=False) as counter:
            run(info)
        if counter.get_total_flops():
            counted.add(info.name)
    assert len(counted) > 20
    assert counted <= operations.select(trait="product")


def test_operations_on_sequences_take_a_list_of_tensors():
    for info in MATCHED:
        value = sample(info).get(info.signature.names[0]) if info.signature.names else None
        is_list = isinstance(value, list) and bool(value) and isinstance(value[0], Tensor)
        assert is_list == ("sequence" in info.traits), info.name


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
