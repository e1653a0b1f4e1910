"""What a row counts: each parameter, call and byte once."""

from dataclasses import replace

from cnnprobe.document.layout import list_entries
from cnnprobe.records.totals import add_up
from cnnprobe.records.trace import Trace
from tests.support import traces
from tests.support.tables import assert_adds_up, column, facts, notices, table
from tests.support.traces import call, module, tensor, weight


def test_a_module_called_twice_counts_its_parameters_once():
    row = tensor(2, 4)
    trace = Trace(
        model="Net",
        modules=(module("", "Net", stock=False), module("fc", "Linear", parameters=("fc.weight",))),
        calls=(
            call("", "Net", row, row, parent=None, depth=0),
            call("fc", "Linear", row, row, macs=32),
            call("fc", "Linear", row, row, macs=32, index=1),
        ),
        parameters=(weight("fc.weight", 4, 4),),
    )
    found = table(trace)
    assert (["Net", "fc #1", "fc #2"], [16, 16, "shared"], [64, 32, 32]) == (
        column(found, "name"),
        column(found, "parameters"),
        column(found, "MACs"),
    )


def test_a_tied_parameter_stands_at_one_row_and_is_named():
    row = tensor(2, 4)
    trace = Trace(
        model="Net",
        modules=(
            module("", "Net", stock=False),
            module("a", "Linear", parameters=("a.weight",)),
            module("b", "Linear", parameters=("a.weight",)),
        ),
        calls=(
            call("", "Net", row, row, parent=None, depth=0),
            call("a", "Linear", row, row, macs=32),
            call("b", "Linear", row, row, macs=32),
        ),
        parameters=(weight("a.weight", 4, 4, aliases=("b.weight",)),),
    )
    assert [16, 16, "shared"] == column(table(trace), "parameters")
    assert ["tied parameters, counted once: a.weight = b.weight"] == notices(trace)


def test_a_shared_module_is_named_with_its_other_names():
    row = tensor(2, 4)
    modules = (module("", "Net", stock=False), module("a", "ReLU", aliases=("b",)))
    trace = Trace(
        model="Net",
        modules=modules,
        calls=(call("", "Net", row, row, parent=None, depth=0), call("a", "ReLU", row, row)),
    )
    assert ["the same module under several names: a = b"] == notices(trace)


def never_called(**fields):
    row = tensor(2, 4)
    return Trace(
        model="Net",
        modules=(
            module("", "Net", stock=False),
            module("heads", "ModuleList", container=True),
            module("heads.0", "Linear", parameters=("heads.0.weight",)),
            module("heads.1", "Linear", parameters=("heads.1.weight",)),
        ),
        calls=(
            call("", "Net", row, row, parent=None, depth=0),
            call("heads.0", "Linear", row, row, macs=32),
            call(None, "torch.nn.functional.linear", tensor(2, 4, **fields), row, macs=32),
        ),
        parameters=(weight("heads.0.weight", 4, 4), weight("heads.1.weight", 4, 4)),
    )


def test_a_module_that_no_call_reached_is_shown_and_counted():
    found = table(never_called())
    assert ["Net", "heads.0", "F.linear", "heads.1"] == column(found, "name")
    assert (["never called", 16], 32) == (
        [column(found, "output")[3], column(found, "parameters")[3]],
        column(found, "parameters")[0],
    )


def test_a_module_whose_weight_a_function_used_is_not_called_dead():
    assert (
        "only its parameters are used"
        == column(table(never_called(source="heads.1.weight")), "output")[3]
    )


def test_a_containers_own_parameter_is_a_row_so_that_rows_add_up():
    row = tensor(2, 4)
    trace = Trace(
        model="Net",
        modules=(
            module("", "Net", stock=False, parameters=("scale",)),
            module("fc", "Linear", parameters=("fc.weight",)),
        ),
        calls=(
            call("", "Net", row, row, parent=None, depth=0),
            call("fc", "Linear", row, row, macs=32),
        ),
        parameters=(weight("scale", 4), weight("fc.weight", 4, 4)),
    )
    found = table(trace)
    assert ("scale", "own parameter", "", "(4,)", 4) == found.rows[1].cells[:5]
    assert_adds_up(trace, list_entries(trace))


def test_what_a_stock_layer_uses_inside_itself_belongs_to_it():
    row = tensor(2, 4)
    trace = Trace(
        model="Net",
        modules=(
            module("", "Net", stock=False),
            module("mha", "MultiheadAttention", parameters=("mha.in_proj_weight",)),
            module(
                "mha.out_proj",
                "NonDynamicallyQuantizableLinear",
                parameters=("mha.out_proj.weight",),
            ),
        ),
        calls=(
            call("", "Net", row, row, parent=None, depth=0),
            call("mha", "MultiheadAttention", row, row, macs=100),
        ),
        parameters=(weight("mha.in_proj_weight", 12, 4), weight("mha.out_proj.weight", 4, 4)),
    )
    found = table(trace)
    assert (["Net", "mha"], [64, 64]) == (column(found, "name"), column(found, "parameters"))


def test_calls_made_again_by_checkpointing_are_in_no_sum():
    trace = traces.tiny()
    again = replace(trace.calls[1], recomputed=True, parent=None)
    doubled = replace(trace, calls=(*trace.calls, again))
    assert (add_up(trace), len(table(trace).rows)) == (add_up(doubled), len(table(doubled).rows))
    assert any("1 call recomputed" in text for text in notices(doubled))


def test_an_output_that_was_passed_on_is_not_counted_as_new_memory():
    row = tensor(2, 4)
    calls = (
        call("", "Net", row, row, parent=None, depth=0),
        call("id", "Identity", row, tensor(2, 4, source="x")),
    )
    kept = replace(calls[1], outputs=(tensor(2, 4, source=0),))
    assert (32, 0) == (
        add_up(
            Trace(
                model="Net", calls=(calls[0], replace(calls[1], outputs=(tensor(2, 4, source=1),)))
            )
        ).activation_bytes,
        add_up(Trace(model="Net", calls=(calls[0], kept))).activation_bytes,
    )


def test_frozen_parameters_and_buffers_are_told_apart():
    parameters = (
        weight("a", 3),
        weight("b", 2, trainable=False),
        weight("c", 7, kind="buffer"),
        weight("n", kind="buffer", dtype="int64"),
    )
    said = facts(Trace(model="Net", parameters=parameters))
    assert {
        "parameters": "5 (3 trainable, 2 frozen), 20 B of float32",
        "buffers": "8 elements, 28 B of float32, 8 B of int64",
    } == said
