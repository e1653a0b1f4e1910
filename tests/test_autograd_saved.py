"""The bytes that autograd keeps for the backward pass."""

import pytest
import torch
from torch import nn

from cnnprobe.recorder.autograd import walk
from tests.support.graphs_of_autograd import Twice, leaf, needs_saved


def bytes_by_hooks(run):
    """Bytes of the distinct storages that torch hands to its saved-tensor hooks while `run` builds
    a graph.
    """
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    return {key: size for key, (size, _) in kept.items()}, output, kept


@needs_saved
@pytest.mark.parametrize("build", ["conv", "attention", "lstm", "views"])
def test_saved_bytes_equal_those_that_torch_hands_to_its_hooks(build):
    torch.manual_seed(0)
    model, x = {
        "conv": lambda: (
            nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()
            ),
            torch.rand(2, 3, 8, 8),
        ),
        "attention": lambda: (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            torch.rand(2, 5, 8),
        ),
        "lstm": lambda: (nn.Sequential(nn.LSTM(3, 4)), torch.rand(5, 2, 3)),
        "views": lambda: (
            nn.Sequential(nn.Linear(6, 6), nn.Flatten(0), nn.Unflatten(0, (2, 6)), nn.Sigmoid()),
            torch.rand(2, 6),
        ),
    }[build]()

    def run():
        torch.manual_seed(1)
        return model(x)

    by_hooks, _, _ = bytes_by_hooks(run)
    graph = walk(run(), model=model, inputs=[x])
    assert sum(by_hooks.values()) == sum(saved.nbytes for saved in graph.saved)
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers(), x]}
    assert (
        sum(size for key, size in by_hooks.items() if key not in own)
        == graph.saved_bytes
        == sum(node.saved_bytes for node in graph.nodes)
    )


@needs_saved
def test_saved_bytes_count_a_storage_once_where_many_operations_keep_it():
    x = leaf(100)
    h = x.exp()
    assert 400 == walk((h.sin() + h.cos() + h[:50].sum()).sum()).saved_bytes


@needs_saved
def test_saved_bytes_tell_parameters_and_inputs_apart():
    layer = nn.Linear(4, 3)
    x = torch.ones(2, 4, requires_grad=True)
    graph = walk(layer(x), model=layer)
    assert {"input": 2 * 4 * 4, "parameter": 4 * 3 * 4} == {
        saved.kind: saved.nbytes for saved in graph.saved
    }


@needs_saved
def test_saved_bytes_of_a_custom_function_include_what_it_put_on_its_context():
    output = Twice.apply(leaf(3).clone(), leaf(3))[0]
    assert 12 + 40 == walk(output).saved_bytes
