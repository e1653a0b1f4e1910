"""What is recorded of a forward pass, held against torch and hand arithmetic."""

import dataclasses
import gc
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe.errors import UnknownNameError
from cnnprobe.recorder import Recording, observe
from cnnprobe.recorder.values import describe_tensor
from tests.support.models import Broken, Functional, Small, images
from tests.support.recorded import trace_of


def test_trace_lists_calls_in_the_order_of_the_forward_pass():
    trace = trace_of(Small(), images())
    assert ["", "conv", "bn", "relu", "pool", None, "drop", "fc"] == [
        call.fqn for call in trace.calls
    ]
    assert "torch.flatten" == trace.calls[5].kind


def test_trace_has_the_shapes_that_torch_computes():
    trace = trace_of(Small(), images())
    assert (2, 4, 8, 8) == trace["conv"].outputs[0].shape
    assert (2, 4, 4, 4) == trace["pool"].outputs[0].shape
    assert (2, 64) == trace.calls[5].outputs[0].shape == trace["fc"].inputs[0].shape
    assert (2, 5) == trace["fc"].outputs[0].shape


def test_call_names_the_users_own_line():
    line = inspect.getsourcelines(Small.forward)[1]
    trace = trace_of(Small(), images())
    assert trace["conv"].source.endswith(f"models.py:{line + 1}")
    assert trace.calls[5].source.endswith(f"models.py:{line + 2}")


def test_call_inside_a_container_has_the_line_of_the_container():
    trace = trace_of(Broken(), images())
    assert trace["block"].source == trace["block.0"].source != ""


def test_functions_of_the_users_forward_are_rows_with_their_public_names():
    trace = trace_of(Functional(), images())
    kinds = [call.kind for call in trace.calls[1:]]
    assert [
        "torch.nn.functional.relu",
        "torch.nn.functional.max_pool2d",
        "torch.Tensor.view",
        "torch.Tensor.t",
        "torch.Tensor.matmul",
        "torch.Tensor.mul",
    ] == kinds


def test_functions_inside_a_stock_layer_are_no_rows():
    trace = trace_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softmax(1)), images())
    assert all(call.fqn is not None for call in trace.calls)


def test_nested_outputs_keep_their_paths_and_leave_out_what_is_no_tensor():
    outputs = trace_of(Functional(), images())[""].outputs
    assert ["['logits']", "['pair'][0]"] == [t.path for t in outputs]
    assert [(2, 5), (2, 48)] == [t.shape for t in outputs]


def test_keyword_arguments_are_recorded_by_name():
    call = trace_of(Functional(), x=images(), scale=3.0)[""]
    assert "x" == call.inputs[0].path
    assert {"scale": 3.0} == call.arguments


def test_source_of_an_input_is_the_call_that_made_it():
    trace = trace_of(Small(), images())
    by_name = {call.fqn: i for i, call in enumerate(trace.calls)}
    assert by_name["conv"] == trace["bn"].inputs[0].source
    assert by_name["relu"] == trace["pool"].inputs[0].source
    assert by_name["drop"] == trace["fc"].inputs[0].source
    assert trace["conv"].inputs[0].source is None


def test_source_of_a_parameter_that_a_function_uses_is_its_name():
    trace = trace_of(Functional(), images())
    transposed = next(call for call in trace.calls if call.kind == "torch.Tensor.t")
    assert "weight" == transposed.inputs[0].source


def test_residual_addition_has_two_sources():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = F.relu(x)
            return y + self.conv(y)

    trace = trace_of(Residual(), images())
    assert [1, 2] == [t.source for t in trace.calls[3].inputs]


def test_module_called_several_times_has_one_row_for_each():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            for _ in range(3):
                x = self.conv(x)
            return x

    calls = trace_of(Loop(), images()).calls_of("conv")
    assert [0, 1, 2] == [call.index for call in calls]
    assert [3 * 3 * 9 * 2 * 64] * 3 == [call.macs for call in calls]


def test_recursion_of_a_module_into_itself_is_recorded_with_its_depth():
    class Recursive(nn.Module):
        def forward(self, x, n=3):
            return x if n == 0 else self(x * 2, n - 1)

    trace = trace_of(Recursive(), images())
    assert [0, 1, 2, 3] == [call.depth for call in trace.calls if call.fqn == ""]


def test_shared_module_stands_once_with_its_aliases():
    shared = nn.Conv2d(3, 3, 1)
    model = nn.ModuleDict({"a": shared, "b": shared})
    model.forward = lambda x: model["b"](model["a"](x))
    trace = trace_of(model, images())
    assert ("b",) == trace.module("a").aliases
    assert 3 * 3 + 3 == sum(p.numel for p in trace.parameters)
    assert ("b.weight",) == trace.parameters[0].aliases


def test_tied_weights_are_counted_once():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    trace = trace_of(model, torch.tensor([[1, 2]]))
    assert [("0.weight", 28, ("1.weight",))] == [
        (p.fqn, p.numel, p.aliases) for p in trace.parameters
    ]


def test_exponentially_many_paths_through_shared_modules_are_not_walked():
    model = nn.Linear(2, 2)
    for _ in range(40):
        model = nn.Sequential(model, model)
    model.forward = lambda x: x
    assert 41 == len(trace_of(model, torch.ones(1, 2)).modules)


def test_never_called_modules_are_named_and_containers_are_not():
    model = nn.ModuleDict(
        {"used": nn.ReLU(), "unused": nn.Linear(2, 2), "list": nn.ModuleList([nn.ReLU()])}
    )
    model.forward = lambda x: model["used"](x)  # noqa: PLW0108 - a module as attribute would be registered
    assert ("unused", "list.0") == trace_of(model, images()).never_called


def test_lookup_of_an_unknown_name_suggests_a_near_one():
    trace = trace_of(Small(), images())
    with pytest.raises(UnknownNameError, match="did you mean 'conv'"):
        trace["conv_1"]


def test_in_place_relu_is_recorded_as_it_was_at_each_call():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    trace = trace_of(model, images())
    assert trace["0"].outputs[0].stats["min"] < 0 == trace["1"].outputs[0].stats["min"]


def test_statistics_equal_torchs_own():
    model, x = nn.Conv2d(3, 4, 3), images()
    stats = trace_of(model, x)[""].outputs[0].stats
    y = model(x).detach().double()
    assert y.numel() == stats["count"]
    assert pytest.approx(y.mean().item(), rel=1e-5, abs=1e-7) == stats["mean"]
    assert pytest.approx(y.std(correction=0).item(), rel=1e-5) == stats["std"]
    assert (y.min().item(), y.max().item()) == (stats["min"], stats["max"])


def test_outputs_of_any_kind_are_accepted_and_generators_not_consumed():
    @dataclasses.dataclass
    class Out:
        hidden: torch.Tensor
        items: object

    class Odd(nn.Module):
        def forward(self, x):
            return Out(x + 1, (i for i in range(3)))

    observation = observe(Odd(), (images(),), {})
    assert [".hidden"] == [t.path for t in observation.trace[""].outputs]
    assert [0, 1, 2] == list(observation.output.items)


@pytest.mark.parametrize("value", [None, "text", 3, object(), [1, [2]], {"a": None}, {1, 2}])
def test_output_without_a_tensor_is_shown_by_its_type(value):
    class Odd(nn.Module):
        def forward(self):
            return value

    call = trace_of(Odd())[""]
    assert (type(value).__name__, ()) == (call.returned, call.outputs)


def test_output_that_contains_itself_ends():
    class Knot(nn.Module):
        def forward(self, x):
            knot = [x + 1]
            knot.append(knot)
            return knot

    with Recording(model := Knot()) as recording:
        model(images())
    assert ["[0]"] == [t.path for t in recording.trace[""].outputs]


def test_lazy_module_is_probed_and_stays_lazy():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))
    trace = trace_of(model, images())
    assert ["", "0", "1", "2"] == [call.fqn for call in trace.calls]
    assert 4 * 3 * 9 + 4 + (4 * 36) * 5 + 5 == sum(p.numel for p in trace.parameters)
    assert "LazyConv2d" == type(model[0]).__name__
    assert isinstance(model[0].weight, nn.UninitializedParameter)


def test_meta_model_gives_shapes_without_statistics():
    trace = trace_of(Small().to("meta"), images().to("meta"))
    assert ("meta", (2, 5), None) == (
        trace.mode,
        trace["fc"].outputs[0].shape,
        trace["fc"].outputs[0].stats,
    )


def test_parametrized_module_has_its_original_kind():
    model = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    assert "Conv2d" == trace_of(model, images())[""].kind


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_scripted_module_is_said_to_be_opaque():
    scripted = torch.jit.trace(nn.Linear(8, 8), images())
    model = nn.Sequential(nn.Linear(8, 8), scripted)
    assert any("scripted" in note for note in trace_of(model, images()).notes)


def test_failing_forward_has_all_rows_up_to_the_failing_one():
    observation = observe(Broken(), (images(),), {})
    trace = observation.trace
    assert [
        ("", False),
        ("block", False),
        ("block.0", True),
        ("block.1", True),
        ("block.2", False),
    ] == [(c.fqn, c.completed) for c in trace.calls]
    assert (2, 4, 6, 6) == trace["block.2"].inputs[0].shape
    assert isinstance(observation.error, RuntimeError)


def test_failure_names_the_module_the_operation_and_the_line():
    failure = trace_of(Broken(), images()).failure
    assert ("RuntimeError", "block.2", "Conv2d", "forward") == (
        failure.kind,
        failure.module,
        failure.operation,
        failure.stage,
    )
    line = inspect.getsourcelines(Broken.forward)[1] + 1
    assert failure.source.endswith(f"models.py:{line}")
    assert "cnnprobe/recorder" not in failure.traceback


def test_failure_in_a_function_names_the_function():
    class Bad(nn.Module):
        def forward(self, x):
            return torch.flatten(x, 1).view(7, -1)

    failure = trace_of(Bad(), images()).failure
    assert ("", "torch.Tensor.view", 2) == (failure.module, failure.operation, failure.call)


def test_error_that_a_parent_catches_is_no_failure():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Broken()

        def forward(self, x):
            try:
                return self.inner(x)
            except RuntimeError:
                return torch.relu(x)

    trace = trace_of(Careful(), images())
    assert trace.failure is None
    assert not trace["inner"].completed
    assert (True, 0) == (trace.calls[-1].kind == "torch.relu", trace.calls[-1].parent)


def test_call_inside_an_except_block_is_no_failure():
    try:
        raise ValueError("earlier")
    except ValueError:
        trace = trace_of(Small(), images())
    assert trace.failure is None
    assert all(call.completed for call in trace.calls)


def test_module_that_gives_back_nothing_inside_an_except_block_has_not_failed():
    class Silent(nn.Module):
        def forward(self, x):
            x + 1

    try:
        raise ValueError("earlier")
    except ValueError:
        trace = trace_of(Silent(), images())
    assert trace.failure is None
    assert (True, "NoneType") == (trace[""].completed, trace[""].returned)


def test_rows_of_a_finished_call_are_nothing_for_the_garbage_collector_to_search():
    kept = []
    recording = Recording(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), statistics=False
    )
    recording._watcher.on_root = lambda _, rows: kept.extend(rows)
    with recording:
        recording._model(images())
    for _ in range(4):  # each pass lets go of the tuples whose own tuples it let go before
        gc.collect()
    assert 4 == len(kept)
    assert not any(gc.is_tracked(row) for row in kept)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 3),
        torch.zeros(2, 3).T,
        torch.zeros(3, 1).expand(3, 4),
        torch.zeros(()),
        torch.zeros(0, 4),
        torch.zeros(5, dtype=torch.complex128),
        torch.zeros(5, dtype=torch.bfloat16, device="meta"),
        torch.zeros(2, 2, dtype=torch.float8_e4m3fn),
        torch.ones(2, 3, requires_grad=True),
        nn.Parameter(torch.ones(2, 3)),
    ],
)
def test_tensor_is_described_as_torch_describes_it(tensor):
    info = describe_tensor(tensor, "", None)
    assert (tuple(tensor.shape), tensor.nbytes) == (info.shape, info.nbytes)
    assert (str(tensor.dtype), str(tensor.device)) == (f"torch.{info.dtype}", info.device)
    assert (tensor.requires_grad, tensor.stride()) == (info.requires_grad, info.strides)


def test_module_that_is_added_during_the_forward_is_in_the_inventory():
    class Growing(nn.Module):
        def forward(self, x):
            if not hasattr(self, "late"):
                self.late = nn.Linear(8, 4)
            return self.late(x)

    with Recording(model := Growing()) as recording:
        model(images())
    assert ["", "late"] == [module.fqn for module in recording.trace.modules]


def test_attribute_that_a_user_added_to_a_stock_layer_is_in_its_configuration():
    model = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU())
    model[1].note, model[2].other = "mine", 3
    configs = [module.config for module in trace_of(model, images()).modules[1:]]
    assert [
        {"inplace": False},
        {"inplace": False, "note": "mine"},
        {"inplace": False, "other": 3},
    ] == configs


class PartlyUsed(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.LazyConv2d(4, 3), nn.LazyLinear(5)

    def forward(self, x):
        return self.used(x)


def test_lazy_module_starts_unseen_in_a_recording_and_keeps_its_hook_where_it_does_not_start():
    torch.manual_seed(0)
    model = PartlyUsed()
    before = dict(model.spare._forward_pre_hooks)
    with Recording(model) as recording:
        output = model(images())
    assert ["", "used"] == [call.fqn for call in recording.trace.calls]
    assert before == dict(model.spare._forward_pre_hooks)
    torch.manual_seed(0)
    assert torch.equal(output, nn.LazyConv2d(4, 3)(images()))
