"""A probe of shapes alone: the same rows as the ordinary one, no value read, and the model as it
was.
"""

import re

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import TargetError
from tests.support import ways


def rows(trace):
    return [(c.fqn, c.kind, [o.shape for o in c.outputs], c.macs) for c in trace.calls]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18_Weights"),
        ("mobilenet_v3_small", "MobileNet_V3_Small_Weights"),
        ("squeezenet1_1", "SqueezeNet1_1_Weights"),
    ],
)
def test_shapes_only_gives_the_rows_of_the_ordinary_probe_and_the_published_parameters(
    name, weights
):
    models = pytest.importorskip("torchvision.models")
    model, x = getattr(models, name)().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        shapes = cnnprobe.probe(model, x, shapes_only=True).trace
        assert rows(cnnprobe.probe(model, x).trace) == rows(shapes)
    published = getattr(models, weights).DEFAULT.meta["num_params"]
    assert published == sum(p.numel for p in shapes.parameters if p.kind == "parameter")


def test_shapes_only_gives_the_published_parameters_of_vit_h_14_on_meta():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.vit_h_14(image_size=518).eval()
    trace = cnnprobe.probe(
        model, torch.empty(1, 3, 518, 518, device="meta"), shapes_only=True
    ).trace
    meta = models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1.meta
    assert meta["num_params"] == sum(p.numel for p in trace.parameters if p.kind == "parameter")
    assert (1, 1000) == trace[""].outputs[0].shape


def test_shapes_only_leaves_every_tensor_in_its_place():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    cnnprobe.probe(model, torch.randn(2, 3, 8, 8), shapes_only=True)
    after = {name: (id(t), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    assert before == after
    assert "cpu" == model[0].weight.device.type


def test_shapes_only_leaves_every_tensor_in_its_place_when_the_forward_raises():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 2))
    weight = model[0].weight
    report = cnnprobe.probe(model, torch.ones(3, 4), shapes_only=True)
    assert (False, "1") == (report.ok, report.trace.failure.module)
    assert model[0].weight is weight


class Asking(nn.Module):
    """Asks for values, and mixes in a tensor that is not registered."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.offsets = torch.ones(4)
        self.more = [torch.ones(4)]

    def forward(self, x):
        torch.nonzero(x)
        if x.sum() > 10:
            x = x * 2
        return self.fc(x + self.offsets + self.more[0] + torch.arange(4))


def test_shapes_only_names_what_needs_values_and_shows_the_rest():
    report = cnnprobe.probe(Asking(), torch.ones(3, 4), shapes_only=True)
    assert (True, (3, 2)) == (report.ok, report.trace["fc"].outputs[0].shape)
    note = report.trace.notes[-1]
    assert "torch.nonzero" in note and "torch.Tensor.__bool__" in note


def test_shapes_only_shapes_a_lazy_copy_and_leaves_the_model_lazy():
    model = nn.Sequential(nn.LazyLinear(3))
    trace = cnnprobe.probe(model, torch.ones(2, 4), shapes_only=True).trace
    assert ((2, 3), True) == (trace["0"].outputs[0].shape, isinstance(model[0], nn.LazyLinear))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_shapes_only_refuses_scripted_code():
    with pytest.raises(TargetError, match="scripted"):
        cnnprobe.probe(torch.jit.script(nn.Linear(4, 2)), torch.ones(3, 4), shapes_only=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nested tensors", "an input is a nested tensor, which has no single size"),
        ("quantized, static", "'0' is quantized and cannot run without its weights"),
        ("quantized, dynamic", "'0' is quantized and cannot run without its weights"),
    ],
)
def test_what_has_no_shapes_without_values_is_refused(name, words):
    way = ways.make(name)
    with pytest.raises(TargetError, match=re.escape(words)):
        cnnprobe.probe(way.model, *way.args, shapes_only=True)


def test_sparse_parameter_is_not_asked_for_its_storage():
    way = ways.make("sparse parameters (COO)")
    notes = cnnprobe.probe(way.model, *way.args, shapes_only=True).trace.notes
    assert "torch._sparse_mm cannot run on shapes alone" in notes[-1]
    assert "untyped_storage" not in notes[-1]
