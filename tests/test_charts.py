"""Curves over steps: where a point lies, where a line has a gap, what is marked, and what is said
of it.
"""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from cnnprobe.diagnosis import Finding, Tried, Verdict
from cnnprobe.document.layout.curves import draw_history_pictures
from cnnprobe.document.layout.histories import lay_out_history
from cnnprobe.document.layout.trials import build_trial_blocks
from cnnprobe.document.render import Column, Document, Picture, Row, Table, Trend, render
from cnnprobe.document.render.charts import Polyline, draw_curves
from cnnprobe.records.history import Curve, History, unify_nan
from cnnprobe.report import Report
from tests.support import histories, traces

SVG = "{http://www.w3.org/2000/svg}"


def line(*values, name="loss", steps=None):
    return Polyline(name=name, steps=steps or range(len(values)), values=values)


def drawn(*lines, **options):
    return ET.fromstring(draw_curves(lines, **options))


def points(svg, number=0):
    """The points of the n-th line as (command, x, y)."""
    found = [
        path.get("d") for path in svg.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None
    ]
    return [
        (command, float(x), float(y))
        for command, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", found[number])
    ]


def test_values_lie_between_the_axes_in_proportion():
    assert [("M", 58, 130), ("L", 205, 20), ("L", 352, 75)] == points(drawn(line(1.0, 3.0, 2.0)))


def test_steps_that_were_left_out_leave_room():
    assert [58, 58 + 294 / 4, 352] == pytest.approx(
        [x for _, x, _ in points(drawn(line(1, 2, 3, steps=(0, 10, 40))))], abs=0.1
    )


def test_values_over_powers_of_ten_get_a_logarithmic_axis():
    svg = drawn(line(1.0, 100.0, 10.0))
    assert [130, 20, 75] == [y for _, _, y in points(svg)]
    assert "logarithmic" in "".join(svg.itertext())


def test_value_that_is_not_finite_leaves_a_gap():
    assert ["M", "L", "M", "L"] == [
        command for command, _, _ in points(drawn(line(1, 2, math.nan, 2, 1)))
    ]


def test_line_of_one_point_is_seen():
    assert 'stroke-width="4"' in draw_curves([line(1.0, math.nan, math.nan)])


@pytest.mark.parametrize(
    "values", [(), (math.nan, math.inf), (-1e308, 1e308), (0.0, 0.0), (1e-320, 1e300)], ids=str
)
def test_any_numbers_can_be_drawn(values):
    text = ET.tostring(drawn(line(*values)), encoding="unicode")
    assert None is re.search(r'd="[^"]*(nan|inf)', text)


def test_marked_step_has_a_line_and_says_what_happened():
    svg = drawn(line(1, 2, 3), mark=1, note="NaN: the loss")
    assert "NaN: the loss" in "".join(svg.itertext())
    assert "M205.0 16V130" in [path.get("d") for path in svg.iter(f"{SVG}path")]


def test_long_line_keeps_its_highest_and_lowest_points():
    values = [0.5] * 10_000
    values[1234], values[8765] = 1.0, 0.0
    found = points(drawn(line(*values)))
    assert len(found) <= 170
    assert {20, 130} <= {y for _, _, y in found}


def test_few_lines_are_all_named_and_of_many_the_first_and_the_last():
    def names(count):
        svg = drawn(*(line(k, k + 1, name=f"layer{k}") for k in range(count)))
        return [text.text for text in svg.iter(f"{SVG}text") if text.text.startswith("layer")]

    assert ["layer2", "layer1", "layer0"] == names(3)
    assert ["layer29", "layer0"] == names(30)


def test_hostile_name_is_text():
    svg = drawn(line(1, 2, name="<script>"), line(1, 2, name="b\u202e"))
    assert {"script"} & {element.tag.removeprefix(SVG) for element in svg.iter()} == set()
    assert "\u202e" not in "".join(svg.itertext())


def test_charts_of_a_run_are_the_loss_the_layers_and_the_rest():
    captions = [picture.caption for picture in draw_history_pictures(histories.training())]
    assert [
        "loss",
        "gradient norm of each layer",
        "update / weight of each parameter",
        "learning rate",
        "seconds",
    ] == captions


def test_gradients_of_parameters_are_not_drawn_among_those_of_layers():
    run = histories.training()
    weight = replace(run.of("relu", "gradient"), fqn="conv.weight")
    pictures = {
        picture.caption: picture.svg
        for picture in draw_history_pictures(replace(run, series=(*run.series, weight)))
    }
    assert "conv.weight" not in pictures["gradient norm of each layer"]


def test_first_gradient_that_is_not_finite_is_marked_in_each_chart():
    said = [picture.alt for picture in draw_history_pictures(histories.training())]
    assert (
        "loss: 2.300 at step 0, NaN at step 4, between 1.250 and 2.300; Inf: gradient of relu "
        "at step 4"
    ) == said[0]
    assert all(text.endswith("Inf at step 4") for text in said[1:])


def test_loss_that_is_not_finite_is_marked_without_further_knowledge():
    history = History(
        model="Net",
        curves=(Curve(name="loss", steps=(0, 1, 2), values=unify_nan((1, 2, math.nan))),),
    )
    assert next(draw_history_pictures(history)).alt.endswith("loss is not finite at step 2")


def test_page_and_fragment_show_the_charts_and_text_does_not():
    report = Report(trace=traces.tiny(), history=histories.training())
    counts = [
        report.to(form).count('class="cnnprobe-chart"')
        for form in ("html", "fragment", "text", "markdown")
    ]
    assert [5, 5, 0, 0] == counts
    assert not any(
        isinstance(block, Picture) for block in lay_out_history(histories.training()).blocks
    )


def test_trend_is_a_line_where_one_can_draw_and_bars_elsewhere():
    trend = Trend(values=(0.0, 7.0, math.nan, 7.0))
    document = Document(
        blocks=(Table(title="", columns=(Column(name="loss"),), rows=(Row(cells=(trend,)),)),)
    )
    assert "▁█ █" in render(document, "text")
    for form in ("html", "fragment"):
        assert 'd="M2 14L34 2M98 2h0"' in render(document, form)


def test_numbers_beside_an_axis_are_all_different():
    svg = draw_curves([Polyline(name="loss", steps=(1, 2), values=(2.3021, 2.3019))])
    numbers = re.findall(r'text-anchor="end">([\d.]+)</text>', svg)[:3]
    assert ["2.3019", "2.302", "2.3021"] == numbers


@pytest.mark.parametrize(("last", "pictures"), [(2.302_302, 0), (2.29, 1), (math.nan, 1)])
def test_curves_that_move_by_rounding_alone_are_not_drawn(last, pictures):
    tried = Tried(
        title="a fix", verdict=Verdict.PROVEN, said="", losses=(2.3023, 2.302301),
        as_it_is=(2.3023, last),
    )  # fmt: skip
    finding = Finding(module=None, message="", fix="", tried=tried)
    assert pictures == len(list(build_trial_blocks([finding], None, drawn=True)))
