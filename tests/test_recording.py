"""A recording around the user's own calls, and of models that torch has compiled, wrapped or
nested.
"""

import copy
import pickle
import traceback

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import TargetError
from cnnprobe.recorder import Recording, observe
from cnnprobe.recorder.preservation import StateGuard
from cnnprobe.records.trace import Histogram
from tests.support.models import Broken, Small, images
from tests.support.recorded import trace_of


def test_record_watches_the_users_own_calls_and_gives_one_trace_for_each():
    model, x = Small().eval(), images()
    expected = model(x)
    with Recording(model) as recording:
        actual = [model(x), model(x)]
    assert 2 == len(recording.traces) == recording.forwards
    assert all(torch.equal(expected, y) for y in actual)


def test_record_of_a_failing_call_keeps_the_exception_and_the_trace():
    model = Broken()
    with pytest.raises(RuntimeError), Recording(model) as recording:
        model(images())
    assert "block.2" == recording.trace.failure.module


def test_record_without_a_call_says_so():
    with Recording(Small()) as recording:
        pass
    with pytest.raises(TargetError, match="nothing was recorded"):
        recording.trace


def test_record_of_a_class_says_to_make_an_instance():
    with pytest.raises(TargetError, match=r"Small is a class, (.|\n)*pass an instance: Small\(\)"):
        Recording(Small)


def test_record_of_a_state_dict_says_to_load_it():
    with pytest.raises(TargetError, match=r"a state_dict of \d tensors (.|\n)*load_state_dict"):
        Recording(Small().state_dict())


def test_gradients_under_record_are_those_without_it():
    def gradients(watched):
        torch.manual_seed(0)
        model = Small()
        if watched:
            with Recording(model):
                model(images()).sum().backward()
        else:
            model(images()).sum().backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


def test_checkpointed_calls_are_marked_as_recomputed():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False)

    model = Checkpointed()
    with Recording(model) as recording:
        model(images()).sum().backward()
    assert [False, True] == [
        call.recomputed for trace in recording.traces for call in trace.calls if call.fqn == "conv"
    ]


def test_copy_of_a_watched_model_is_not_watched():
    model = Small()
    with Recording(model) as recording:
        twin = copy.deepcopy(model)
        loaded = pickle.loads(pickle.dumps(model))
        twin(images())
        loaded(images())
    assert 0 == recording.forwards
    twin(images())


def test_deep_nesting_passes_where_the_bare_model_does():
    model = nn.Linear(2, 2)
    for _ in range(150):
        model = nn.Sequential(model)
    assert 151 == len(trace_of(model, torch.ones(1, 2)).calls)


def test_compiled_model_is_probed_eagerly_and_said_so():
    model = torch.compile(Small().eval(), backend="eager")
    with torch.no_grad():
        expected = model(images())
        observation = observe(model, (images(),), {})
    assert torch.equal(expected, observation.output)
    assert any("compiled" in note for note in observation.trace.notes)
    assert any(call.kind == "Conv2d" for call in observation.trace.calls)


def test_wrapped_data_parallel_model_is_seen_through():
    assert "module.conv" in [
        call.fqn for call in trace_of(nn.DataParallel(Small()), images()).calls
    ]


def test_autograd_sequence_brackets_the_nodes_that_the_call_made():
    model = Small().eval()
    with Recording(model) as recording:
        y = model(images())
    first, last = recording.trace["fc"].sequence
    assert first <= y.grad_fn._sequence_nr() < last


def test_inference_mode_and_half_precision_are_recorded():
    with torch.inference_mode():
        trace = trace_of(Small().to(torch.bfloat16).eval(), images().to(torch.bfloat16))
    assert "bfloat16" == trace["fc"].outputs[0].dtype
    assert 2 * 5 * 2 == trace["fc"].outputs[0].nbytes


def test_probe_counts_values_by_magnitude_and_a_recording_does_not():
    model = nn.Identity()
    values = torch.tensor([[-3.0, 0.0, 0.5, 3.0]])
    with Recording(model) as recording:
        model(values)
    histogram = trace_of(model, values)[""].outputs[0].histogram
    assert Histogram(lowest=-1, negative=(0, 0, 1), positive=(1, 0, 1)) == histogram
    assert recording.trace[""].outputs[0].histogram is None


def test_compiled_model_under_record_keeps_its_compiled_code_and_is_seen_from_outside():
    model = torch.compile(Small().eval(), backend="eager")
    with torch.no_grad():
        expected = model(images())
        with Recording(model) as recording:
            actual = model(images())
        assert torch.equal(expected, actual)
    assert [(2, 5)] == [t.shape for t in recording.trace[""].outputs]
    assert any("from outside only" in note for note in recording.trace.notes)


def test_part_that_is_compiled_in_place_is_seen_from_outside_beside_the_rest():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[1].compile(backend="eager")
    with torch.no_grad(), Recording(model) as recording:
        model(images())
    assert ["", "0", "1"] == [call.fqn for call in recording.trace.calls]
    assert ("1",) == recording.trace.opaque


def test_traceback_of_a_crash_under_record_shows_no_frame_of_ours():
    model = nn.Linear(4, 2)
    with pytest.raises(RuntimeError) as caught, Recording(model):
        torch.cat([model(torch.ones(3, 4)), torch.ones(3, 5)], dim=0)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert [__file__] == [frame.f_code.co_filename for frame in frames]


def test_recording_that_ends_before_one_that_began_later_takes_its_own_mode_off():
    model = nn.Linear(2, 2)
    first, second = Recording(model), Recording(model)
    first.__enter__()
    second.__enter__()
    model(torch.ones(1, 2)).relu()
    first.__exit__(None, None, None)
    model(torch.ones(1, 2))
    second.__exit__(None, None, None)
    assert (1, 2) == (first.forwards, second.forwards)
    assert 0 == torch._C._len_torch_function_stack()


def test_forward_goes_on_where_our_own_hook_stumbles(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no memory for a copy")

    monkeypatch.setattr(StateGuard, "about_to_write", refuse)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten()), images()
    expected = model(x)
    seen = observe(model, (x,), {})
    assert seen.error is None
    assert torch.equal(expected, seen.output)
    assert [("Sequential", True), ("Conv2d", True), ("ReLU", True), ("Flatten", True)] == [
        (call.kind, call.completed) for call in seen.trace.calls
    ]
    assert any(note.startswith("'1' was not recorded in full") for note in seen.trace.notes)
    assert 0 == torch._C._len_torch_function_stack()


def test_calls_of_a_sequential_with_a_forward_of_its_own_have_their_own_lines():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    def forward(x):
        y = model[0](x)
        return model[1](y)

    model.forward = forward
    trace = cnnprobe.probe(nn.Sequential(model), torch.randn(2, 4)).trace
    first = forward.__code__.co_firstlineno
    lines = {call.fqn: int(call.source.rpartition(":")[2]) - first for call in trace.calls[2:]}
    assert {"0.0": 1, "0.1": 2} == lines
