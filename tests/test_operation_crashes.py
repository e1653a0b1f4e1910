"""Every spelling of one operation gets one explanation when its tensors do not fit."""

import pytest
import torch
from torch import Tensor, nn

from cnnprobe import operations, probe
from tests.support.operation_samples import arguments, sample, spellings

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    """Two layers whose outputs meet in one operation, however it is spelled."""

    def __init__(self, widths, join):
        super().__init__()
        self.a, self.b = (nn.Linear(6, width) for width in widths)
        self.join = join

    def forward(self, x):
        return self.join(self.a(x), self.b(x))


def explain(info, spelling, names):
    """The explanation of two outputs of 6 and 7 features that meet in an operation."""

    def join(a, b):
        values = sample(info)
        if names == ("tensors",):
            values["tensors"] = [a, b]
        else:
            values |= dict(zip(names, (a, b), strict=True))
        given, options = arguments(info, spelling, values)
        return spelling.call(*given, **options)

    torch.manual_seed(0)
    report = probe(Net((6, 7), join), torch.randn(4, 6))
    if report.ok:
        return None
    explanation = report.explanation
    return explanation.diagnosis, explanation.module, len(explanation.repairs)


def writes_without_gradient(spelling):
    """Whether it is the one in-place form that an older torch cannot differentiate."""
    if not spelling.kind.endswith(".ldexp_"):
        return False
    try:
        (torch.ones(2, requires_grad=True) * 1).ldexp_(torch.ones(2))
    except RuntimeError:
        return True
    return False


def list_pairs():
    """The operations on two tensors, or on a list of them, that have several spellings."""
    for info in operations.ALL:
        values = sample(info) if len(spellings(info)) > 1 else {}
        names = [name for name, value in values.items() if isinstance(value, Tensor)]
        if info.effect == "joins" and "tensors" in values:
            yield pytest.param(info, ("tensors",), id=info.name)
        elif info.effect == "broadcasts" and len(names) == 2 == len(values):
            yield pytest.param(info, tuple(names), id=info.name)


PAIRS = list(list_pairs())


def test_most_arithmetic_and_every_join_is_among_the_pairs():
    names = {param.id for param in PAIRS}
    assert {"add", "sub", "mul", "div", "maximum", "minimum", "remainder", "cat"} <= names


@pytest.mark.parametrize(("info", "names"), PAIRS)
def test_every_spelling_of_an_operation_gets_the_same_explanation(info, names):
    found = {
        s.kind: explain(info, s, names)
        for s in spellings(info)
        if not s.kind.startswith("torch.ops") and not writes_without_gradient(s)
    }
    told = {kind: said for kind, said in found.items() if said is not None}
    assert len(set(told.values())) <= 1, told
    if info.effect == "broadcasts":
        assert told
