"""The HTML page in a real browser: its pictures are zoomed, moved and opened, and joined to its
rows.
"""

import pytest

from cnnprobe.document.render import (
    Picture,
)
from cnnprobe.graph import Edge, Graph, Node
from cnnprobe.report import Report
from tests.support import traces
from tests.support.pages import FAMILY, blocks_of, needs_browser, with_statistics

BOXES = (
    '<svg viewBox="0 0 400 2000" width="400" height="2000"><g data-key="c1"><rect x="10" y="10" '
    'width="90" height="40"/></g><g data-key="c4"><rect x="10" y="1900" width="90" '
    'height="40"/></g></svg>'
)


@needs_browser
def test_click_on_a_row_marks_it_and_tells_of_its_call(show):
    page = show(Report(trace=with_statistics()))
    page.click("#c1")
    assert ["c1"] == page.run("[...document.querySelectorAll('tr.marked')].map(tr => tr.id)")
    page.run("new Promise(done => setTimeout(done, 200))")
    told = page.run("document.querySelector('#detail').innerText")
    assert all(
        text in told
        for text in ("Conv2d", "(2, 8, 8, 8) float32", "zeros\n512", "weight\n(8, 3, 3, 3) float32")
    )


@needs_browser
def test_row_and_box_mark_each_other(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    page.click("#c5")  # it has no box of its own, the module that it stands in has
    assert ["c4"] == page.run(
        "[...document.querySelectorAll('svg .marked')].map(box => box.dataset.key)"
    )
    assert page.run("document.querySelector('.picture .scroll').scrollTop") > 0
    page.click("[data-key=c1] rect")
    assert ["c1", "c1"] == page.run(
        "[...document.querySelectorAll('.marked')].map(one => one.id || one.dataset.key)"
    )


@needs_browser
def test_picture_zooms_by_button_and_by_wheel(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    width = "Number(document.querySelector('.picture svg').getAttribute('width'))"
    before = page.run(width)
    page.click("[aria-label='Zoom in']")
    larger = page.run(width)
    x, y = page.run(
        "(() => { const r = document.querySelector('.picture "
        ".scroll').getBoundingClientRect(); return [r.x + 50, r.y + 50] })()"
    )
    page.send(
        "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=300, modifiers=2
    )
    assert before * 1.3 == pytest.approx(larger)
    page.run("new Promise(done => setTimeout(done, 100))")
    assert page.run(width) < larger / 2


WIDTH = "Number(document.querySelector('.picture svg').getAttribute('width'))"


@needs_browser
def test_picture_zooms_by_the_keyboard(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    before = page.run(WIDTH)
    page.run("document.querySelector('.picture .scroll').focus()")
    page.press("+")
    page.press("+")
    larger = page.run(WIDTH)
    page.press("0")
    assert (before * 1.69, before) == (pytest.approx(larger), page.run(WIDTH))


@needs_browser
def test_picture_moves_by_the_arrow_keys_and_by_dragging(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    page.run("document.querySelector('.picture .scroll').focus()")
    top = (
        "(new Promise(done => setTimeout(done, 300))).then(() => document.querySelector('.picture "
        ".scroll').scrollTop)"
    )
    page.press("ArrowDown")
    by_key = page.run(top)
    x, y = page.run(
        "(r => [r.x + 150, r.y + 300])(document.querySelector('.picture "
        ".scroll').getBoundingClientRect())"
    )
    for kind, up in (
        ("mousePressed", 0),
        ("mouseMoved", 50),
        ("mouseMoved", 100),
        ("mouseReleased", 100),
    ):
        page.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y - up,
            button="left",
            buttons=1,
            clickCount=1,
        )
    assert 0 < by_key < page.run(top) == pytest.approx(by_key + 100, abs=2)


@needs_browser
def test_two_fingers_zoom_the_picture(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    page.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    before = page.run(WIDTH)
    x, y = page.run(
        "(r => [r.x + 120, r.y + 120])(document.querySelector('.picture "
        ".scroll').getBoundingClientRect())"
    )
    for kind, apart in (("touchStart", 20), ("touchMove", 25), ("touchMove", 40)):
        page.send(
            "Input.dispatchTouchEvent",
            type=kind,
            touchPoints=[{"x": x - apart, "y": y}, {"x": x + apart, "y": y}],
        )
    page.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert before * 2 == pytest.approx(page.run(WIDTH))


@needs_browser
def test_search_lets_the_boxes_of_what_matches_stand_out(show):
    page = show(blocks_of(FAMILY, Picture(svg=BOXES, alt="two boxes")))
    page.click("input[type=search]")
    page.type("norm")
    assert ["c1"] == page.run(
        "[...document.querySelectorAll('svg.searched .found')].map(box => box.dataset.key)"
    )


@needs_browser
def test_double_click_on_a_box_opens_what_is_inside_it(show):
    page = show(Report(trace=traces.blocks(6)))
    figure = "[...document.querySelectorAll('figure.picture')].find(f => !f.hidden)"
    shut = page.run(f"{figure}.dataset.boxes")
    page.run(
        f"{figure}.querySelector('[data-key]').dispatchEvent(new MouseEvent('dblclick', "
        f"{{bubbles: true}}))"
    )
    page.run("new Promise(done => setTimeout(done, 200))")
    marked = page.run(f"[...{figure}.querySelectorAll('.marked')].map(box => box.dataset.key)")
    assert int(shut) < int(page.run(f"{figure}.dataset.boxes"))
    assert ["c2"] == marked


@needs_browser
def test_autograd_graph_is_unpacked_on_demand_and_joined_to_the_rows(show):
    nodes = (
        Node(id=0, kind="operation", name="ConvolutionBackward0", module="conv", call=0),
        Node(id=1, kind="operation", name="View"),
    )
    graph = Graph(view="autograd", nodes=nodes, edges=(Edge(start=0, end=1),))
    page = show(Report(trace=traces.tiny(), graph=graph))
    before = page.run("document.querySelectorAll('.pictures svg').length")
    page.run(
        "(s => { s.value = s.options.length - 1; s.dispatchEvent(new Event('change')) "
        "})(document.querySelector('.pictures select'))"
    )
    page.run("new Promise(done => setTimeout(done, 200))")
    page.click("figure.picture:not([hidden]) [data-key] rect")
    assert (1, "c1") == (before, page.run("document.querySelector('tr.marked').id"))


@needs_browser
def test_box_of_the_models_graph_and_row_of_the_table_find_each_other(show):
    page = show(Report(trace=traces.tiny()))
    page.click("#c3")
    assert "flatten" in page.run("document.querySelector('svg g.marked').textContent")
    page.click("svg [data-key=c4] rect")
    assert "c4" == page.run("document.querySelector('tr.marked').id")


@needs_browser
def test_one_of_several_pictures_is_seen_and_another_can_be_chosen(show):
    page = show(Report(trace=traces.blocks(6)))
    seen = (
        "[...document.querySelectorAll('figure.picture')].filter(f => f.offsetHeight).map(f => "
        "f.querySelectorAll('g.node').length)"
    )
    first = page.run(seen)
    page.run(
        "(s => { s.value = s.options.length - 1; s.dispatchEvent(new Event('change')) "
        "})(document.querySelector('.pictures select'))"
    )
    page.run("new Promise(done => setTimeout(done, 200))")
    assert (1, [13]) == (len(first), page.run(seen))
    assert first != [13]
