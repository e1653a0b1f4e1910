"""One operation, however it is spelled, gets one answer everywhere."""

import functools
import importlib
import pkgutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe import operations, rulebook
from cnnprobe.comparison.primitives import list_operations
from cnnprobe.comparison.refactoring.layers import NotWritableError, make_layer
from cnnprobe.diagnosis.evidence import operation
from cnnprobe.document.render.labels import find_family
from cnnprobe.graph import Node
from cnnprobe.operations import OperationInfo, find, find_signature
from cnnprobe.recorder import observe
from tests.support.operation_samples import Spelling, arguments, sample, spellings

pytestmark = pytest.mark.filterwarnings("ignore")


class Spelled(nn.Module):
    """Calls one spelling on what it is given."""

    def __init__(self, function, keywords):
        super().__init__()
        self.function, self.keywords = function, keywords

    def forward(self, *args):
        return self.function(*args, **self.keywords)


def usual(info: OperationInfo) -> list[Spelling]:
    """The spellings with the same defaults: F.kl_div gives one number, torch.kl_div does not."""
    defaults = info.signature.defaults
    return [
        s
        for s in spellings(info)
        if all(defaults.get(n, v) == v for n, v in find_signature(s.kind).defaults.items())
        and not s.kind.endswith(("bmm", "float_power_", "normal_", "resize"))
    ]


def several() -> list[tuple[OperationInfo, list[Spelling]]]:
    """For any room's own test: operations of several spellings, each with `kind` and `call`."""
    return [(info, usual(info)) for info in operations.ALL if len(usual(info)) > 1]


@functools.cache
def recorded(kind: str):
    """The trace of one spelling and its row; None where no tensor comes out."""
    info = operations.find_function(kind)
    spelling = next(s for s in spellings(info) if s.kind == kind)
    args, keywords = arguments(info, spelling, sample(info))
    if spelling.in_place:
        args[0] = args[0].clone()
    trace = observe(Spelled(spelling.call, keywords), tuple(args), {}).trace
    assert trace.failure is None, trace.failure
    rows = [k for k, call in enumerate(trace.calls) if call.fqn is None]
    return (trace, rows[-1]) if rows else None


def apart(answer) -> dict[str, list[list[str]]]:
    """The operations whose spellings get several answers: name -> spellings by their answers."""
    found: dict[str, list[list[str]]] = {}
    for info, spelled in several():
        given: dict[str, list[str]] = {}
        for spelling in spelled:
            row = recorded(spelling.kind)
            if row is not None:
                given.setdefault(repr(answer(*row)), []).append(spelling.kind)
        if len(given) > 1:
            found[info.name] = list(given.values())
    return found


def cost_of(trace, row):
    return trace.calls[row].macs


def evidence_of(trace, row):
    return operation(trace.calls[row])


def compared(trace, row):
    """What the comparison takes for the same: name, configuration, shapes."""
    last = next(op for op in list_operations(trace) if op.call == row)
    return last.name, sorted(last.config.items(), key=str), last.given, last.made


def layer(trace, row):
    last = next(op for op in list_operations(trace) if op.call == row)
    try:
        found = make_layer(last, 0)
    except NotWritableError:
        return "no layer"
    return found.kind, dict(found.arguments)


def colour(trace, row):
    return find_family(Node(0, trace.calls[row].kind, "function"))


def test_there_are_many_spellings():
    assert len(several()) > 250
    assert sum(len(found) for _, found in several()) > 900


def test_a_recorded_row_is_the_operation_that_was_spelled():
    others = {
        spelling.kind
        for info, found in several()
        for spelling in found
        if (row := recorded(spelling.kind)) and find(row[0].calls[row[1]]) is not info
    }
    assert set() == others


@pytest.mark.parametrize("answer", [cost_of, evidence_of, compared, layer, colour])
def test_all_spellings_of_an_operation_get_one_answer(answer):
    assert {} == apart(answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: torch.cat([x, x]), lambda x: torch.concatenate([x, x])),
        (lambda x: torch.cat([x, x], dim=1), lambda x: torch.concat([x, x], axis=1)),
        (lambda x: x / 2, lambda x: torch.divide(x, 2)),
        (lambda x: x.permute(1, 0, 2, 3), lambda x: torch.permute(x, (1, 0, 2, 3))),
        (lambda x: x.clip(0, 1), lambda x: torch.clamp(x, min=0, max=1)),
        (lambda x: torch.where(x > 0, x, -x), lambda x: x.where(x.greater(0), x.negative())),
        (lambda x: 2 - x, lambda x: torch.rsub(x, 2)),
        (nn.ReflectionPad2d(1), lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
        (nn.CELU(0.5), lambda x: torch.celu(x, 0.5)),
    ],
)
def test_models_that_differ_in_spelling_alone_are_equal(one, other):
    x = torch.rand(2, 3, 4, 4)
    models = [Spelled(each, {}).eval() for each in (one, other)]
    assert cnnprobe.compare(*models, x).equivalent


def test_models_that_differ_in_the_order_of_a_difference_are_not_equal():
    models = [Spelled(each, {}) for each in (lambda x: x - 2, lambda x: 2 - x)]
    assert not cnnprobe.compare(*models, torch.rand(2, 3)).equivalent


def test_operations_that_rules_name_are_operations_that_rows_have():
    groups = {info.group for info in operations.ALL}
    named = {
        (module.__name__, name): value
        for module in (
            importlib.import_module(f"cnnprobe.rulebook.{m.name}")
            for m in pkgutil.iter_modules(rulebook.__path__)
        )
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, frozenset) and name not in ("AXES", "PLACES")
    }
    assert len(named) > 20
    assert {} == {where: value - groups for where, value in named.items() if not value <= groups}
