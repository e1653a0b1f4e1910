"""What the user's own exception gains in `record` and `probe`: a short note."""

import pytest
import torch
from crashes import layers, training
from torch import nn

import cnnprobe


def notes_of(error):
    return "\n".join(getattr(error, "__notes__", ()))


def test_exception_inside_record_keeps_its_type_and_gains_a_short_note():
    model = layers.AsWritten()
    with pytest.raises(RuntimeError) as caught, cnnprobe.record(model):
        model(torch.randn(2, 3, 32, 32))
    note = notes_of(caught.value)
    assert RuntimeError is type(caught.value)
    assert note.startswith("cnnprobe: missing-flatten in 'classifier'")
    assert "nn.Flatten()" in note
    assert len(note.splitlines()) <= 8


def test_exception_of_the_loss_inside_record_gains_a_note():
    model, step = training.class_indices_with_an_extra_axis(False)
    with pytest.raises(RuntimeError) as caught, cnnprobe.record(model) as recording:
        step()
    assert "target-shape" in notes_of(caught.value)
    assert ("target-shape", "loss") == (
        recording.explanation.diagnosis,
        recording.explanation.stage,
    )


def test_exception_of_a_probed_model_gains_a_note():
    model = cnnprobe.probed(layers.AsWritten())
    with pytest.raises(RuntimeError) as caught:
        model(torch.randn(2, 3, 32, 32))
    assert "missing-flatten" in notes_of(caught.value)
    assert "missing-flatten" == cnnprobe.last_report(model).explanation.diagnosis


def test_exception_that_has_nothing_to_do_with_the_model_gains_no_note():
    model = nn.Linear(2, 2)
    with pytest.raises(KeyError) as caught, cnnprobe.record(model):
        model(torch.ones(1, 2))
        raise KeyError("missing")
    assert "" == notes_of(caught.value)


def test_interrupt_gains_no_note():
    with pytest.raises(KeyboardInterrupt) as caught, cnnprobe.record(nn.Linear(2, 2)):
        raise KeyboardInterrupt
    assert "" == notes_of(caught.value)


class Unpacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.gru(x))


def test_note_of_a_tuple_names_the_failing_line_once():
    with pytest.raises(TypeError) as caught, cnnprobe.record(model := Unpacked()):
        model(torch.ones(3, 2, 4))
    line = Unpacked.forward.__code__.co_firstlineno + 1
    assert 1 == notes_of(caught.value).count(f"at test_crash_notes.py:{line}")
