"""Graphs that live on after backward: which, what they hold, and what keeps them; the bytes are
counted by hand.
"""

import pytest
import torch
from torch import nn

from cnnprobe.recorder.autograd import GraphWatch
from cnnprobe.recorder.autograd.saved import READABLE

needs_saved = pytest.mark.skipif(
    not READABLE,
    reason=f"torch {torch.__version__} does not show what is kept for backward: 2.7 or later does",
)


def leaf(*shape):
    torch.manual_seed(0)
    return torch.rand(*shape, requires_grad=True)


def steps(keep):
    """Three training steps; `keep` is given each loss and may hold on to it."""
    watch, weight = GraphWatch(), leaf(100)
    for step in range(3):
        loss = weight.exp().sum()
        watch.add(loss, f"step {step}")
        loss.backward(retain_graph=step == 1)
        keep(loss)
    del loss
    return watch


def test_watch_finds_no_graph_where_each_was_dropped():
    assert () == steps(lambda loss: None).kept()


@needs_saved
def test_watch_finds_stored_outputs_and_tells_the_list_and_the_bytes():
    losses = []
    kept = steps(losses.append).kept()
    assert [("step 0", True, 0), ("step 1", False, 400), ("step 2", True, 0)] == [
        (k.label, k.freed, k.saved_bytes) for k in kept
    ]
    assert all(any("list 'losses'" in keeper for keeper in k.keepers) for k in kept)


def test_watch_finds_a_total_that_keeps_every_graph():
    class Meter:
        total = 0

    meter = Meter()

    def add(loss):
        meter.total = meter.total + loss

    kept = steps(add).kept()
    assert ["step 0", "step 1", "step 2"] == [k.label for k in kept]
    assert all("the graph behind 'total' of a Meter" in k.keepers for k in kept)


@needs_saved
def test_watch_tells_what_a_retained_graph_holds_that_a_total_keeps():
    watch = GraphWatch()
    loss = leaf(100).exp().sum()
    watch.add(loss, "step")
    loss.backward(retain_graph=True)
    total = loss * 1
    del loss
    (kept,) = watch.kept()
    assert (False, 400, 0) == (kept.freed, kept.saved_bytes, kept.tensor_bytes)
    assert (
        (
            "the graph behind 'total' in "
            "test_watch_tells_what_a_retained_graph_holds_that_a_total_keeps()"
        ),
    ) == kept.keepers
    del total
    assert () == watch.kept()


class Remembers(nn.Module):
    """Keeps what its first layer put out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 5), nn.Linear(5, 2)
        self.features = None

    def forward(self, x):
        self.features = self.first(x)
        return {"logits": self.second(torch.sigmoid(self.features))}


def test_watch_of_a_whole_graph_finds_the_attribute_that_keeps_a_part_of_it():
    model, watch = Remembers(), GraphWatch()
    output = model(torch.ones(3, 8))
    watch.add_whole(output, "run")
    output["logits"].sum().backward()
    del output
    (kept,) = watch.kept()
    assert ("'features' of a Remembers",) == kept.keepers
    assert (0, 3 * 5 * 4) == (kept.saved_bytes, kept.tensor_bytes)
    model.features = model.features.detach()
    assert () == watch.kept()
