"""What a report shows of a trace: rows, sums, folds, notes."""

from dataclasses import replace

import pytest

from cnnprobe.diagnosis import Finding, Tried, Verdict
from cnnprobe.document.blocks import Table, Text
from cnnprobe.document.layout import (
    View,
    fold_rows,
    lay_out_parameters,
    lay_out_trace,
    list_entries,
)
from cnnprobe.document.layout.boxes import map_boxes_to_keys
from cnnprobe.document.layout.folded_rows import join_names
from cnnprobe.document.layout.trials import build_trial_blocks
from cnnprobe.document.render import Notice, Shares
from cnnprobe.errors import UnknownNameError, UsageError
from cnnprobe.graph import BLOCKS, build_module_graph
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.totals import add_up
from cnnprobe.records.trace import Trace
from tests.support import traces
from tests.support.tables import assert_adds_up, column, facts, notices, table
from tests.support.traces import call, module, tensor, weight


def test_totals_equal_the_sums_on_paper():
    sums = add_up(traces.tiny())
    assert (5354, 5354, 0) == (sums.parameters, sums.trainable, sums.buffers)
    assert (37_888, 4, 3, {"ReLU": 1}) == (
        sums.macs,
        sums.operations,
        sums.counted,
        dict(sums.uncounted),
    )
    assert {"float32": 5354 * 4} == dict(sums.parameter_bytes)
    assert 4 * (1024 + 1024 + 1024 + 20) == sums.activation_bytes


def test_rows_come_in_the_order_of_the_forward_pass():
    found = table(traces.tiny())
    assert ["Tiny", "conv", "relu", "torch.flatten", "fc"] == column(found, "name")
    assert ["", "Conv2d", "ReLU", "function", "Linear"] == column(found, "kind")
    assert [0, 1, 1, 1, 1] == [row.depth for row in found.rows]


def test_a_row_shows_shapes_parameters_and_macs():
    found = table(traces.tiny())
    conv = found.rows[1].cells
    assert ("conv", "Conv2d", "(2, 3, 8, 8)", "(2, 8, 8, 8)", 224, 27_648, 4096) == conv


def test_a_row_without_a_formula_shows_no_number_of_macs():
    found = table(traces.tiny())
    assert [37_888, 27_648, None, 0, 10_240] == column(found, "MACs")
    assert any("no formula" in note for note in found.notes)
    assert (
        "3 of 4 operations have a formula (75.0%); not counted: ReLU (1)"
        == facts(traces.tiny())[""]
    )


def test_totals_without_any_formula_say_so_instead_of_zero():
    row = tensor(2, 4)
    trace = Trace(
        model="ReLU",
        modules=(module("", "ReLU"),),
        calls=(call("", "ReLU", row, row, parent=None, depth=0, macs=None),),
    )
    assert "- (no operation has a formula)" == facts(trace)["MACs"]


@pytest.mark.parametrize(
    "trace",
    [traces.tiny(), traces.failing(), traces.blocks(4), traces.nested(5), traces.hostile()],
    ids=lambda trace: trace.model[:8],
)
def test_rows_add_up_to_the_totals_folded_or_not(trace):
    assert_adds_up(trace, list_entries(trace))
    assert_adds_up(trace, fold_rows(trace, list_entries(trace)))


def test_identical_blocks_fold_into_one_with_the_sums_of_all():
    found = table(traces.blocks(3))
    assert ["Net", "0..2", "fc", "relu"] == column(found, "name")
    assert ["", "Block x3", "Linear x3", "ReLU x3"] == column(found, "kind")
    assert [48, 48, 48, 0] == column(found, "parameters")
    assert [96, 96, 96, None] == column(found, "MACs")
    assert [192, 192, 96, 96] == column(found, "bytes")


@pytest.mark.parametrize("copies", [2, 3])
def test_a_note_says_what_the_number_beside_a_folded_row_means(copies):
    found = table(traces.blocks(copies))
    assert found.notes[0].startswith(
        f"x{copies}: {copies} identical rows shown as one, with their sums"
    )
    assert any(f"x{copies}" in str(row.cells) for row in found.rows)


def test_a_block_with_another_configuration_stays_out_of_the_fold():
    found = table(traces.blocks(3, config={"in_features": 4, "padding": 1}))
    assert ["Net", "0..1", "fc", "relu", "2", "fc", "relu"] == column(found, "name")


def test_folding_can_be_left_out():
    assert 10 == len(table(traces.blocks(3), folded=False).rows)


def test_a_block_with_nan_is_not_folded_with_its_healthy_neighbours():
    trace = traces.blocks(3)
    healthy, sick = (
        {"count": 8, "mean": 0.5, "nan": 0, "inf": 0},
        {"count": 8, "mean": 0.5, "nan": 2, "inf": 0},
    )
    calls = [
        replace(c, outputs=(tensor(2, 4, stats=sick if c.fqn == "1.fc" else healthy),))
        for c in trace.calls
    ]
    trace = replace(trace, calls=tuple(calls))
    assert ["Net", "0", "fc", "relu", "1", "fc", "relu", "2", "fc", "relu"] == column(
        table(trace), "name"
    )
    assert 2 == column(table(trace), "NaN")[5]
    assert "NaN or Inf in the output of 1 call; the first is '1.fc' (Linear)" in notices(trace)


def test_two_single_layers_are_shown_and_three_folded():
    row = tensor(2, 4)

    def trace(n):
        calls = (
            call("", "Net", row, row, parent=None, depth=0),
            *(call(f"{i}", "ReLU", row, row, macs=None) for i in range(n)),
        )
        return Trace(
            model="Net",
            modules=(module("", "Net"), *(module(f"{i}", "ReLU") for i in range(n))),
            calls=calls,
        )

    assert ["Net", "0", "1"] == column(table(trace(2)), "name")
    assert ["Net", "0..2"] == column(table(trace(3)), "name")


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        ("b9", "b10", "b9..10"),
        ("10", "19", "10..19"),
        ("left", "right", "left..right"),
        ("a.0", "a.3", "a.0..3"),
    ],
)
def test_a_fold_is_named_by_its_first_and_last_row(first, last, name):
    assert name == join_names(first, last)


def test_depth_one_shows_the_children_with_all_that_is_below_them():
    found = table(traces.blocks(2), depth=1, folded=False)
    assert (["Net", "0", "1"], [32, 16, 16], [64, 32, 32]) == (
        column(found, "name"),
        column(found, "parameters"),
        column(found, "MACs"),
    )


def test_a_negative_depth_and_an_unknown_section_are_refused():
    with pytest.raises(UsageError, match="negative"):
        lay_out_trace(traces.tiny(), View(depth=-1))
    with pytest.raises(UnknownNameError, match="did you mean 'totals'"):
        lay_out_trace(traces.tiny(), View(sections=("total",)))


def test_the_failing_row_shows_its_input_and_what_was_raised_but_no_output():
    found = table(traces.failing())
    (row,) = [row for row in found.rows if row.emphasis == "error"]
    assert ("fc", "Linear", "(2, 8, 8, 8)", "raised here") == row.cells[:4]
    assert (
        "raised here, given (2, 8, 8, 8): RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (16x8 and 512x10)"
    ) == row.note
    assert (None, None) == row.cells[5:7]


def test_what_a_failing_pass_did_not_reach_is_shown_with_its_parameters():
    found = table(traces.failing())
    assert ("last", "Linear", "", "not reached", 50, "", "") == found.rows[-1].cells
    assert 5354 + 50 == column(found, "parameters")[0]


def test_the_failure_is_said_first_with_its_place():
    document = lay_out_trace(traces.failing())
    (notice,) = [block for block in document.blocks if isinstance(block, Notice)]
    assert (
        "the forward pass raised RuntimeError: mat1 and mat2 shapes cannot be multiplied "
        "(16x8 and 512x10)"
    ) == notice.text
    expected = (
        "module 'fc' (Linear), given (2, 8, 8, 8), at net.py:12; after 2 completed operations, "
        "the last was 'relu' (ReLU)"
    )
    assert expected == notice.where


def test_statistics_are_columns_and_the_fraction_of_zeros_is_computed():
    stats = {"count": 20, "mean": 0.25, "std": 1.0, "zeros": 5, "nan": 0, "inf": 0, "kurtosis": 3.0}
    trace = traces.tiny()
    trace = replace(
        trace,
        calls=(*trace.calls[:-1], replace(trace.calls[-1], outputs=(tensor(2, 10, stats=stats),))),
    )
    found = table(trace)
    assert ["mean", "std", "zeros", "kurtosis"] == [c.name for c in found.columns[7:]]
    assert (0.25, 1.0, 0.25, 3.0) == found.rows[-1].cells[7:]
    assert (None, None, None, None) == found.rows[1].cells[7:]


def test_dtypes_are_a_column_only_where_they_differ():
    trace = traces.tiny()
    mixed = replace(
        trace,
        calls=(
            *trace.calls[:-1],
            replace(trace.calls[-1], outputs=(tensor(2, 10, dtype="float16"),)),
        ),
    )
    assert "dtype" not in [c.name for c in table(trace).columns]
    assert "float16" == column(table(mixed), "dtype")[-1]


def test_several_outputs_are_shown_by_the_first_shapes_and_how_many_more():
    trace = traces.tiny()
    last = replace(trace.calls[-1], outputs=(tensor(2, 10), tensor(3), tensor()))
    assert (
        "(2, 10), (3,) +1"
        == column(table(replace(trace, calls=(*trace.calls[:-1], last))), "output")[-1]
    )


def test_what_is_no_tensor_is_shown_by_its_type():
    trace = traces.tiny()
    last = replace(trace.calls[-1], outputs=(), returned="Boxes")
    assert "Boxes" == column(table(replace(trace, calls=(*trace.calls[:-1], last))), "output")[-1]


def test_notes_of_the_trace_are_said():
    assert ["compiled: eager was probed"] == notices(
        replace(traces.tiny(), notes=("compiled: eager was probed",))
    )


def test_named_parameters_are_a_table_with_shapes_and_a_total():
    trace = replace(
        traces.tiny(),
        parameters=(
            weight("a.w", 2, 3, aliases=("b.w",)),
            weight("a.n", kind="buffer", dtype="int64"),
        ),
    )
    parameters, buffers = lay_out_parameters(trace).blocks[1:]
    assert ("a.w", "(2, 3)", 6, 24, "float32", "trainable") == parameters.rows[0].cells
    assert "also b.w" == parameters.rows[0].note
    assert ("total", "", 6, 24) == parameters.rows[-1].cells[:4]
    assert ("a.n", "()", 1, 8, "int64", "buffer") == buffers.rows[0].cells


def test_a_trace_of_nothing_can_be_laid_out():
    assert "none" == facts(Trace(model="Empty"))["parameters"]
    assert "no parameters and no buffers" == lay_out_parameters(Trace(model="Empty")).blocks[1].text


def test_a_limit_of_rows_shows_whole_levels_and_says_what_is_missing():
    found = table(traces.blocks(10), folded=False, most_rows=15)
    assert (11, "20 more rows are not shown here; report.save() writes them all") == (
        len(found.rows),
        found.notes[0],
    )
    assert 4 == len(table(traces.blocks(10), folded=False, most_rows=4).rows)


def test_two_thousand_levels_of_nesting_are_laid_out():
    trace = traces.nested(2000)
    rows = fold_rows(trace, list_entries(trace))
    assert (2001, 16, 32) == (len(rows), rows[0].parameters, rows[0].macs)


def test_rows_in_a_foreign_order_do_not_break_the_layout():
    trace = traces.blocks(2)
    backwards = replace(trace, modules=tuple(reversed(trace.modules)))
    assert 32 == list_entries(backwards)[0].parameters


def test_each_box_of_the_whole_graph_has_the_key_of_its_own_row():
    trace = traces.tiny()
    keys = map_boxes_to_keys(trace, build_module_graph(trace))
    boxes = {node.name: keys.get(node.id) for node in build_module_graph(trace).nodes}
    assert {
        "input": None,
        "Conv2d": "c1",
        "ReLU": "c2",
        "torch.flatten": "c3",
        "Linear": "c4",
    } == boxes


def test_box_of_repeated_blocks_has_the_keys_of_all_their_rows():
    trace = traces.blocks(4)
    graph = build_module_graph(trace).collapse(1)
    keys = map_boxes_to_keys(trace, graph)
    folded = next(node for node in graph.nodes if node.kind == BLOCKS)
    rows = [int(key[1:]) for key in keys[folded.id].split()]
    assert ["1", "2", "3"] == [trace.calls[row].fqn for row in rows]


def test_page_shows_where_the_parameters_and_the_work_are():
    (parameters, macs, activations) = (
        b
        for b in lay_out_trace(traces.tiny(), View(sections=("shares",))).blocks
        if isinstance(b, Shares)
    )
    assert [("conv", 224, "c1"), ("fc", 5130, "c4")] == [
        (part.name, part.number, part.key) for part in parameters.parts
    ]
    assert {"conv": 27_648, "fc": 10_240} == {part.name: part.number for part in macs.parts}
    assert {"conv": 4096, "relu": 4096, "torch.flatten": 4096, "fc": 80} == {
        part.name: part.number for part in activations.parts
    }


def test_a_part_that_is_nearly_all_is_shown_by_its_own_parts():
    (parameters, *_) = (
        b
        for b in lay_out_trace(traces.blocks(1), View(sections=("shares",))).blocks
        if isinstance(b, Shares)
    )
    assert [("0.fc", 16)] == [(part.name, part.number) for part in parameters.parts]


DEAD = Finding(rule="dead-relu", code="CP101", message="99.8% zeros", fix="lower the rate")


CRASH = Finding(rule="missing-flatten", code="CP001", message="no flatten", fix="nn.Flatten()")


WHY = Explanation(
    diagnosis="missing-flatten", stage="forward", module="", code="CP001", message="no flatten"
)


def test_findings_stand_between_the_title_and_the_introduction():
    blocks = lay_out_trace(traces.tiny(), View(findings=[DEAD])).blocks
    kinds = [type(block).__name__ for block in blocks[:4]]
    assert ["Heading", "Text", "Notice", "Text"] == kinds
    assert "dead-relu: 99.8% zeros" == blocks[2].text


def test_crash_stands_above_the_other_findings():
    blocks = lay_out_trace(traces.failing(), View(findings=[CRASH, DEAD], explanation=WHY)).blocks
    texts = [block.text for block in blocks if isinstance(block, Notice | Text)]
    others = next(i for i, text in enumerate(texts) if text.startswith("1 other finding: "))
    assert "missing-flatten: no flatten" in texts[:others]
    assert "dead-relu: 99.8% zeros" == texts[others + 1]
    kinds = [type(block) for block in blocks if block is not blocks[1]]
    assert kinds.index(Text) < kinds.index(Table)


def test_crash_stands_above_the_other_findings_wherever_its_section_is():
    blocks = lay_out_trace(
        traces.failing(),
        View(findings=[CRASH, DEAD], explanation=WHY, sections=("modules", "failure")),
    ).blocks
    texts = [block.text for block in blocks if isinstance(block, Notice)]
    assert ["missing-flatten: no flatten", "dead-relu: 99.8% zeros"] == texts[-2:]


def test_crash_is_no_finding_where_the_failure_has_its_own_place():
    def read(**options):
        blocks = lay_out_trace(traces.failing(), View(findings=[CRASH, DEAD], **options)).blocks
        return [b.text for b in blocks if isinstance(b, Notice) and ": " in b.text]

    assert any(text.startswith("missing-flatten: ") for text in read(sections=("modules",)))
    shown = read(explanation=WHY, sections=("modules", "failure"))
    assert 1 == sum("no flatten" in text for text in shown)


def test_one_fix_of_two_findings_is_drawn_once():
    tried = Tried(title="drop it", verdict=Verdict.PROVEN, losses=(2.0, 1.0), as_it_is=(2.0, 2.0))
    fixes = (tried, replace(tried, said="gone too"), replace(tried, losses=(2.0, 0.5)))
    findings = [Finding(message="", fix="", tried=each) for each in fixes]
    assert 2 == len(list(build_trial_blocks(findings, None, drawn=True)))
