"""Dataclasses to plain JSON-able data and back."""

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnprobe.errors import ProbeError
from cnnprobe.records import reading, schema
from cnnprobe.records.trace import (
    Failure,
    Histogram,
    ModuleCall,
    ModuleInfo,
    ParameterInfo,
    TensorInfo,
    Trace,
)
from tests.support import traces

numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
texts = st.text(max_size=8)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=5,
)
shapes = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
tensors = st.builds(
    TensorInfo,
    shape=shapes,
    dtype=texts,
    device=texts,
    nbytes=st.integers(0),
    requires_grad=st.booleans(),
    strides=st.none() | shapes,
    path=texts,
    source=st.none() | st.integers() | texts,
    stats=st.none() | st.dictionaries(texts, numbers, max_size=3),
    histogram=st.none() | st.just(Histogram(lowest=-3, negative=(0, 2), positive=(1, 5))),
)
calls = st.builds(
    ModuleCall,
    fqn=st.none() | texts,
    kind=texts,
    index=st.integers(0),
    parent=st.none() | st.integers(0),
    depth=st.integers(0),
    inputs=st.lists(tensors, max_size=2).map(tuple),
    outputs=st.lists(tensors, max_size=2).map(tuple),
    arguments=st.dictionaries(texts, plain_values, max_size=3),
    macs=st.none() | st.integers(0),
    seconds=st.floats(allow_nan=False),
    sequence=st.none() | st.tuples(st.integers(), st.integers()),
)
parameters = st.builds(
    ParameterInfo,
    fqn=texts,
    shape=shapes,
    dtype=texts,
    numel=st.integers(0),
    nbytes=st.integers(0),
    trainable=st.booleans(),
    kind=texts,
    aliases=st.lists(texts, max_size=2).map(tuple),
)
every_trace = st.builds(
    Trace,
    model=texts,
    modules=st.lists(
        st.builds(
            ModuleInfo,
            fqn=texts,
            kind=texts,
            config=st.dictionaries(texts, plain_values, max_size=2),
        ),
        max_size=2,
    ).map(tuple),
    calls=st.lists(calls, max_size=3).map(tuple),
    parameters=st.lists(parameters, max_size=2).map(tuple),
    failure=st.none()
    | st.builds(
        Failure,
        kind=texts,
        message=texts,
        module=texts,
        operation=texts,
        source=texts,
        traceback=texts,
        call=st.none() | st.integers(),
    ),
    notes=st.lists(texts, max_size=2).map(tuple),
)


@settings(
    suppress_health_check=[HealthCheck.too_slow]
)  # making a trace is slow on a busy machine, and says nothing of what is tested
@given(every_trace)
def test_any_trace_is_read_back_from_strict_json_as_it_was(trace):
    text = json.dumps(schema.to_plain(trace), allow_nan=False)
    assert trace == reading.read_plain(Trace, json.loads(text))


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disc:
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    parts: tuple[Circle | Disc | str, ...] = ()
    main: Circle | None = None
    level: Level = Level.LOW
    colour: Literal["red", "blue"] = "red"
    extra: object = None
    sizes: Mapping[str, float] = ()


def round_trip(value):
    return reading.read_plain(
        type(value), json.loads(json.dumps(schema.to_plain(value), allow_nan=False))
    )


def test_dataclasses_of_a_union_come_back_as_the_ones_they_were():
    drawing = Drawing(
        parts=(Disc(radius=1.0), "text", Circle(radius=2.0)), main=Circle(radius=3.0), sizes={}
    )
    assert drawing == round_trip(drawing)


def test_enums_and_literals_are_written_as_their_values():
    drawing = Drawing(level=Level.HIGH, colour="blue", sizes={})
    assert ("high", "blue") == (
        schema.to_plain(drawing)["level"],
        schema.to_plain(drawing)["colour"],
    )
    assert drawing == round_trip(drawing)


@pytest.mark.parametrize(
    ("number", "name"), [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")]
)
def test_a_float_that_is_not_finite_is_a_string_in_json_and_a_float_again(number, name):
    assert {"radius": name} == schema.to_plain(Circle(radius=number))
    assert repr(number) == repr(round_trip(Circle(radius=number)).radius)


def test_not_finite_statistics_survive_beside_a_text_that_looks_like_them():
    out = traces.tensor(2, path="NaN", stats={"mean": math.nan, "max": math.inf, "nan": 3})
    back = round_trip(out)
    assert (True, math.inf, 3, "NaN") == (
        math.isnan(back.stats["mean"]),
        back.stats["max"],
        back.stats["nan"],
        back.path,
    )


class Unknown:
    def __repr__(self):
        return "<unknown>"


class Rude:
    def __repr__(self):
        raise RuntimeError


def test_an_unknown_value_becomes_its_repr():
    value = {"a": Unknown(), 3: {1}, "rude": Rude(), "long": b"x" * 5000}
    plain = schema.to_plain(value)
    assert ("<unknown>", "{1}", "<Rude>", 1000) == (
        plain["a"],
        plain["3"],
        plain["rude"],
        len(plain["long"]),
    )


def test_a_value_that_holds_itself_is_written_to_a_limited_depth():
    endless = []
    endless.append(endless)
    plain, depth = schema.to_plain(Drawing(extra=endless))["extra"], 0
    while isinstance(plain, list):
        (plain,), depth = plain, depth + 1
    assert ("[[...]]", True) == (plain, 10 < depth < 30)


def test_lists_in_a_field_of_any_type_come_back_as_tuples():
    assert ((1, 2), {"a": (3,)}) == round_trip(Drawing(extra=[[1, 2], {"a": [3]}], sizes={})).extra


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (
            lambda d: d["calls"][1].update(depth="deep"),
            "expected an integer, got 'deep'",
            "Trace.calls[1].depth",
        ),
        (
            lambda d: d["calls"][1].update(depth=True),
            "expected an integer, got True",
            "Trace.calls[1].depth",
        ),
        (
            lambda d: d["calls"][2]["inputs"][0].update(shape=[1, None]),
            "expected an integer, got None",
            "Trace.calls[2].inputs[0].shape[1]",
        ),
        (
            lambda d: d["calls"][2]["inputs"][0].update(stats={"mean": "much"}),
            "expected",
            "Trace.calls[2].inputs[0].stats['mean']",
        ),
        (
            lambda d: d["parameters"][0].pop("numel"),
            "the field 'numel' of ParameterInfo is missing",
            "Trace.parameters[0]",
        ),
        (lambda d: d.update(colour="red"), "Trace has no field 'colour'", "Trace"),
        (lambda d: d.update(calls={}), "expected a list, got {}", "Trace.calls"),
        (
            lambda d: d["calls"][0].update(sequence=[1]),
            "expected a list of 2, got [1]",
            "Trace.calls[0].sequence",
        ),
        (
            lambda d: d.update(failure=[]),
            "expected an object with the fields of Failure",
            "Trace.failure",
        ),
    ],
)
def test_data_that_does_not_fit_is_named_with_its_place(change, what, where):
    data = schema.to_plain(traces.tiny())
    change(data)
    with pytest.raises(ProbeError) as caught:
        reading.read_plain(Trace, data)
    assert (True, where, True) == (
        caught.value.what.startswith(what),
        caught.value.where,
        bool(caught.value.fix),
    )


def test_an_object_without_a_known_type_in_a_union_is_refused():
    for tag in ("Square", ["Disc"], None):
        with pytest.raises(ProbeError, match="one of Circle, Disc"):
            reading.read_plain(Drawing, {"parts": [{"type": tag, "radius": 1.0}]})


def test_an_integer_too_large_for_a_float_is_refused():
    with pytest.raises(ProbeError, match="expected a float"):
        reading.read_plain(Circle, {"radius": 10**400})
