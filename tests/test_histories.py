"""A watched training run as data, in a report, and as people read it."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cnnprobe.document.layout.histories import lay_out_history
from cnnprobe.document.render import Notice, Table, render
from cnnprobe.document.render.trends import draw_sparkline
from cnnprobe.errors import UnknownNameError
from cnnprobe.records.history import History, unify_nan
from cnnprobe.report import Report
from cnnprobe.saved import load
from tests.support import histories, traces


def tables(history):
    return [block for block in lay_out_history(history).blocks if isinstance(block, Table)]


def notices(history):
    return [
        (block.severity, block.text, block.where)
        for block in lay_out_history(history).blocks
        if isinstance(block, Notice)
    ]


def test_a_report_with_a_history_is_loaded_as_it_was_saved(tmp_path):
    report = Report(trace=traces.tiny(), history=histories.training())
    report.save(tmp_path / "run.json")
    assert report == load(tmp_path / "run.json")


def test_a_series_is_an_array_over_the_steps_with_nan_where_it_was_not_seen():
    norm = np.array(histories.training().of("relu")["norm"])
    assert ((3,), np.float64, 1.0) == (norm.shape, norm.dtype, norm[1])
    assert math.isnan(norm[2])


def test_series_and_curves_are_found_by_name_and_unknown_ones_get_a_suggestion():
    history = histories.training()
    assert (4.0, 0.1) == (history.of("conv")["norm"][2], history.curve("learning rate").values[0])
    with pytest.raises(UnknownNameError, match="no activation of 'conf', call 0") as raised:
        history.of("conf")
    assert "did you mean 'conv'?" == raised.value.fix
    with pytest.raises(UnknownNameError, match="no statistic named 'norms'"):
        history.of("conv")["norms"]
    with pytest.raises(UnknownNameError, match="no curve named 'los'"):
        history.curve("los")


def test_every_nan_of_a_history_is_the_same_so_that_equal_ones_are_equal():
    assert unify_nan(np.array([1.0, np.nan])) == unify_nan([1, float("nan")])


def test_the_first_value_that_is_not_finite_is_told_with_step_module_and_what_it_was_given():
    text, where = notices(histories.training())[0][1:]
    assert "step 4: the gradient is not finite: 1 Inf of 256 values" == text
    assert (
        "'relu' (ReLU); given (2, 8, 4, 4), all finite, from -3.000 to 3.500; the last finite "
        "step was 2"
    ) == where


def test_dead_channels_are_told_and_living_graphs_are_a_warning():
    assert [
        (
            "info",
            "2 of 8 channels were zero at each observed step from 0 to 4",
            "'relu' (ReLU), channels 1, 5",
        ),
        (
            "warning",
            (
                "the autograd graph of 2 steps, the first 0 is still alive, holding 2.00 KiB of "
                "activations"
            ),
            "an item of the list 'losses' in train()",
        ),
    ] == notices(histories.training())[1:3]


def test_the_tables_show_curves_layers_and_parameters():
    curves, layers, parameters = tables(histories.training())
    assert [
        ("loss", "2.300", "NaN", "1.250", "2.300"),
        ("learning rate", "0.1000", "0.0100", "0.0100", "0.1000"),
    ] == [(row.cells[0], *row.cells[2:]) for row in curves.rows[:2]]
    assert ("seconds", "250 ms", "125 ms") == (curves.rows[2].cells[0], *curves.rows[2].cells[2:4])
    assert ["conv", "relu"] == [row.cells[0] for row in layers.rows]
    assert ["", "warning"] == [row.emphasis for row in layers.rows]
    assert ("conv.weight", "2.500", "1.0e-03") == tuple(
        parameters.rows[0].cells[i] for i in (0, 3, 5)
    )


def test_a_run_that_observed_nothing_says_so():
    document = lay_out_history(History(model="Net", total=3))
    assert "3 training steps, none of them observed" in render(document, "text", width=80)


@pytest.mark.parametrize("form", ["text", "markdown", "html", "fragment"])
def test_a_report_shows_the_history_in_every_format(form):
    shown = Report(trace=traces.tiny(), history=histories.training()).to(form)
    assert "5 training steps, of which 3 were observed" in shown
    assert "step 4: the gradient is not finite" in shown


def test_many_layers_are_cut_and_the_rest_is_counted():
    one = histories.training().series[0]
    (layers,) = tables(
        History(
            model="Net",
            steps=(0, 2, 4),
            total=5,
            series=tuple(replace(one, fqn=f"l{i}") for i in range(70)),
        )
    )
    assert 60 == len(layers.rows)
    assert "10 more rows are not shown here; report.save() writes them all" == layers.notes[-1]


def test_a_long_curve_is_put_together_to_the_width_and_keeps_its_ends():
    line = draw_sparkline([float(k) for k in range(1000)])
    assert (16, "▁", "█") == (len(line), line[0], line[-1])
    assert "▁▁" == draw_sparkline([3.0, 3.0])
    assert "  " == draw_sparkline([math.nan, math.inf])


def test_reading_a_report_with_a_history_never_imports_torch(tmp_path):
    Report(trace=traces.tiny(), history=histories.training()).save(tmp_path / "run.json")
    program = (
        "import sys, cnnprobe; str(cnnprobe.load(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert (
        0
        == subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "run.json")], check=False
        ).returncode
    )
