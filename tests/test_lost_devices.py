"""A GPU whose kernel stopped at an assertion, and memory that is not there: what is said of each.

The lost device is played here, as no test may break the one it runs on; tests/test_cuda.py breaks
a real one in a process of its own.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe.crash import Crash, explained
from cnnprobe.crash.causes.placement import device_assert
from cnnprobe.recorder import observe
from cnnprobe.recorder.devices import is_device_lost, outliving_devices

LOST = "CUDA error: device-side assert triggered"


@pytest.fixture
def lost(monkeypatch):
    def refuse(*_):
        raise RuntimeError(LOST)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)


@pytest.fixture
def ended(monkeypatch):
    """The device is lost for the cause alone: what is run to make the crash still runs."""
    monkeypatch.setattr(device_assert, "is_device_lost", lambda: True)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.table(x).mean(1))


def crash_of(ranges, **more):
    model, x = Tokens(), torch.tensor([[1, 2]])
    trace = observe(model, (x,), {}).trace
    return Crash(error=RuntimeError(LOST), model=model, trace=trace, ranges=ranges, **more)


def test_device_is_not_lost_where_none_was_used():
    assert not is_device_lost()
    with pytest.raises(ValueError, match="ours"), outliving_devices():
        raise ValueError("ours")


def test_what_cannot_be_put_back_on_a_lost_device_hides_nothing(lost):
    with pytest.raises(KeyError, match="the user's"):
        try:
            raise KeyError("the user's")
        finally:
            with outliving_devices():
                raise RuntimeError(LOST)


def test_index_that_is_out_of_a_table_is_named_from_what_was_given(ended):
    crash = crash_of((("input", 1, 10),))
    found = explained(crash)
    assert ("device-assert", "table") == (found.diagnosis, found.module)
    assert "indices range from 1 to 10" in found.message
    assert "valid indices are 0 to 9" in found.message


@pytest.mark.parametrize("greatest", [2, 3])
def test_label_is_blamed_only_where_it_is_no_class(greatest, ended):
    crash = crash_of((("input", 1, 2), ("targets", 0, greatest)), loss_fn=F.cross_entropy)
    found = explained(crash)
    assert "device-assert" == found.diagnosis
    is_named = "labels range from 0 to 3, but the output has 3 classes" in found.message
    assert (greatest == 3) == is_named
    assert is_named or any("valid labels are 0 to 2" in each for each in found.evidence)


def test_probe_outlives_a_device_that_is_lost_in_the_forward(monkeypatch):
    def end(*_):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        for name in ("synchronize", "get_rng_state_all", "set_rng_state_all", "mem_get_info"):
            monkeypatch.setattr(torch.cuda, name, fail)
        fail()

    def fail(*_):
        raise RuntimeError(LOST)

    model = Tokens()
    model.fc.register_forward_pre_hook(end)
    report = cnnprobe.probe(model, torch.tensor([[1, 2]]))
    assert "device-assert" == report.explanation.diagnosis
    assert LOST in report.explanation.error
    assert "CPU" in str(report)


# -- memory ----------------------------------------------------------------------------------------


def test_layer_that_asks_for_more_than_there_is_is_named_with_its_bytes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2**21))
    found = cnnprobe.probe(model, torch.randn(2, 3, 8, 8)).explanation
    assert ("out-of-memory", "1") == (found.diagnosis, found.module)
    side = 6 * 2**21
    assert f"(2, 4, {side}, {side}) float32" in found.message
    assert f"{2 * 4 * side**2 * 4 / 2**50:.1f} PiB" in found.message
    assert "one sample of this alone does not fit" in found.repairs[0].title


def test_loss_that_asks_for_more_than_there_is_is_told_from_a_wrong_one():
    def train_step(images):
        (model(images).sum() * torch.ones(2**50)).sum().backward()

    model = nn.Linear(4, 2)
    found = cnnprobe.diagnose(model, torch.randn(2, 4), train_step=train_step).explanation
    assert ("out-of-memory", "loss") == (found.diagnosis, found.stage)
    assert "cnnprobe.memory" in found.repairs[0].title
