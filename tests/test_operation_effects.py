"""What the catalogue says that operations do to shapes, values and gradients, against torch."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cnnprobe import operations
from cnnprobe.operations import OperationInfo
from tests.support.operation_samples import Spelling, call, sample, spellings
from tests.support.spelled import MATCHED, tensors

pytestmark = pytest.mark.filterwarnings("ignore")


# Complex numbers out of pairs, places of values, counts by value; a statement.
UNLIKE = {"view_as_complex", "nonzero", "argwhere", "histc", "bincount", "setitem"}


def first(info: OperationInfo) -> Spelling:
    return next((s for s in spellings(info) if not s.in_place), spellings(info)[0])


def run(info: OperationInfo, values=None):
    torch.manual_seed(0)
    return call(info, first(info), sample(info) if values is None else values)


def with_gradients(values):
    for tensor in tensors(values):
        tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())
    return values


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
