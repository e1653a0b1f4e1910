"""The decorator: records the user's own calls, and a decorated model is otherwise as it would be without."""

import copy
import io
import pickle

import pytest
import torch
from models import Broken, Small, images
from torch import nn

import cnnprobe


@cnnprobe.probed
class Watched(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Heir(Watched):
    def __init__(self):
        super().__init__(width=6)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * 2


def test_decorated_class_records_each_call_and_runs_it_once():
    model = Heir()
    output = model(images())
    assert 1 == model.calls
    assert (2, 6, 6, 6) == tuple(output.shape) == cnnprobe.last_report(model).trace[""].outputs[0].shape


def test_latest_call_replaces_the_one_before():
    model = Watched()
    model(images(1))
    model(images(2))
    assert 2 == cnnprobe.last_report(model).trace["conv"].inputs[0].shape[0]


def test_output_keeps_its_graph():
    model = Watched()
    model(images()).sum().backward()
    assert model.conv.weight.grad is not None


def test_nothing_is_printed(capfd):
    Watched()(images())
    assert ("", "") == capfd.readouterr()


def test_crash_keeps_its_type_and_leaves_a_report():
    model = cnnprobe.probed(Broken())
    with pytest.raises(RuntimeError, match="to have 5 channels"):
        model(images())
    assert "block.2" == cnnprobe.last_report(model).trace.failure.module


def test_interrupt_leaves_what_was_recorded_and_no_mode_behind():
    class Interrupted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.conv(x)
            raise KeyboardInterrupt

    model = cnnprobe.probed(Interrupted())
    depth = torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt):
        model(images())
    assert depth == torch._C._len_torch_function_stack()
    assert [False, True] == [call.completed for call in cnnprobe.last_report(model).trace.calls]


def test_decorated_model_is_the_same_object_of_the_same_kind():
    model = Small()
    decorated = cnnprobe.probed(model)
    assert decorated is model
    assert isinstance(decorated, Small)
    assert "Small" == type(decorated).__name__
    decorated(images())
    assert "Small" == cnnprobe.last_report(decorated).trace.model


@pytest.mark.parametrize("make", [Watched, lambda: cnnprobe.probed(Small())], ids=["class", "model"])
def test_decorated_model_can_be_pickled_copied_and_saved(make):
    model = make().eval()
    expected = model(images())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(buffer, weights_only=False)]
    assert all(torch.equal(expected, twin(images())) for twin in twins)
    assert list(model.state_dict()) == list(twins[0].state_dict())


def test_decorated_model_can_be_compiled():
    model = Watched().eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(model(images()), compiled(images()))


def test_decorating_what_is_no_model_says_so():
    with pytest.raises(cnnprobe.ProbeError, match="neither a model class nor a model"):
        cnnprobe.probed(3)


def test_report_that_is_not_there_says_how_to_get_one():
    with pytest.raises(cnnprobe.ProbeError, match="no report of this model"):
        cnnprobe.last_report(Small())


def test_report_shows_itself_in_a_notebook():
    bundle = cnnprobe.probe(Small(), images())._repr_mimebundle_()
    assert {"text/plain", "text/html"} == set(bundle)
    assert "<table" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
