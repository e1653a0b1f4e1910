"""Where the boxes of a graph are placed, and the formats in which it is written."""

import dataclasses
import json
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.document.graph_formats import GRAPH_FORMATS, GraphFormat
from cnnprobe.document.render import engines
from cnnprobe.errors import UnknownNameError
from cnnprobe.graph import Call, Edge, Graph, Node, build_module_graph
from cnnprobe.graph.placement import place_boxes
from cnnprobe.records import reading, schema
from tests.support.graphs import Net, image, recorded


def test_place_is_linear_where_every_value_has_a_far_user():
    count = 4_000
    edges = [(i, i + 1) for i in range(count - 1)] + [(i, count - 1) for i in range(count - 2)]
    assert count == len(place_boxes([(10.0, 10.0)] * count, edges).middles)


# ---------------------------------------------------------------- formats


HOSTILE = '"]; <script>alert(1)</script> \\N {x} -->\x1b[31m\u202e`|'


def hostile():
    nodes = (
        Node(0, HOSTILE, "module", HOSTILE, source=HOSTILE, shape=(1,), dtype="float32"),
        Node(1, HOSTILE, "operation", marks=(HOSTILE,)),
    )
    return Graph(
        nodes=nodes, edges=(Edge(0, 1),), calls=(Call(HOSTILE, 0, HOSTILE),), title=HOSTILE
    )


def test_svg_of_hostile_names_is_well_formed_and_runs_nothing():
    svg = hostile().to("svg")
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "g", "path", "rect", "text", "title"}
    assert "\x1b" not in svg and "\u202e" not in svg and " id=" not in svg


def test_svg_shows_every_box_and_every_name():
    graph = build_module_graph(recorded(Net(1), image()))
    root = ET.fromstring(graph.to("svg"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"stem", "blocks.0.conv", "add", "relu", "head"} <= set(texts)
    assert len(graph.nodes) == sum(
        element.get("class", "").startswith("node") for element in root.iter()
    )


def test_svg_takes_the_colours_of_text_and_lines_from_its_page():
    svg = build_module_graph(recorded(Net(1), image())).to("svg")
    assert 'fill="currentColor"' in svg and 'stroke="currentColor"' in svg
    assert not re.search(r'fill="(black|white|#000|#fff)', svg)


def test_dot_of_hostile_names_is_read_by_graphviz_as_two_boxes():
    drawn = engines.draw(hostile().to("dot"), "plain").picture
    if drawn is None:
        pytest.skip("no Graphviz on this machine")
    kinds = [line.split()[0] for line in drawn.decode().splitlines() if line]
    assert 2 == kinds.count("node") and 1 == kinds.count("edge")


def test_dot_is_the_same_for_the_same_model_built_again():
    first, second = (build_module_graph(recorded(Net(), image())).to("dot") for _ in range(2))
    assert first == second


def test_dot_of_a_longer_model_changes_only_the_new_lines():
    before, after = (
        set(
            build_module_graph(
                recorded(
                    nn.Sequential(*[nn.Linear(3, 3), nn.ReLU(), nn.Tanh()][:n]), torch.ones(1, 3)
                )
            )
            .to("dot")
            .splitlines()
        )
        for n in (2, 3)
    )
    assert before < after


def test_mermaid_has_a_line_for_each_box_and_edge_and_no_foreign_character():
    text = hostile().to("mermaid").splitlines()
    assert "flowchart TD" == text[0] and 4 == len(text) and text[3].strip() == "n0 --> n1"
    assert all("<script" not in line and "`" not in line for line in text)


def test_json_comes_back_as_the_same_graph_and_is_strict():
    model = Net()
    with cnnprobe.record(model, statistics=False):
        output = model(image())
        graph = cnnprobe.autograd_graph(output, model)
    text = graph.to("json")
    assert {
        "id",
        "name",
        "module",
        "call",
        "source",
        "shape",
        "dtype",
        "parameter",
        "saved_bytes",
    } <= set(json.loads(text)["nodes"][0])
    assert graph == reading.read_plain(Graph, schema.parse(text, expected="Graph", where="text"))


def test_report_with_a_graph_is_saved_and_loaded(tmp_path):
    model = Net()
    report = cnnprobe.probe(model, image())
    report = dataclasses.replace(report, graph=build_module_graph(report.trace))
    report.save(tmp_path / "report.json")
    assert report.graph == cnnprobe.load(tmp_path / "report.json").graph


def test_text_lists_each_box_with_what_it_comes_from():
    text = build_module_graph(recorded(Net(1), image())).to("text")
    assert re.search(r"torch\.Tensor\.add\s.*3, 1", text)


def test_a_picture_of_a_large_graph_is_folded_and_says_so():
    model = nn.Sequential(*[nn.Linear(width, width + 1) for width in range(3, 203)])
    text = build_module_graph(recorded(model, torch.ones(1, 3))).to("html")
    assert "201 nodes are shown as 80 boxes" in text


def test_unknown_format_and_suffix_name_the_known_ones(tmp_path):
    graph = hostile()
    with pytest.raises(UnknownNameError, match="did you mean 'svg'"):
        graph.to("svgg")
    with pytest.raises(UnknownNameError, match=r"no graph format has the suffix '\.xyz'"):
        graph.save(tmp_path / "graph.xyz")


def test_new_format_of_graphs_is_one_entry(tmp_path, monkeypatch):
    def write_names(graph):
        return " ".join(node.name for node in graph.nodes)

    entry = GraphFormat(suffixes=(".names",), write=write_names)
    monkeypatch.setitem(GRAPH_FORMATS, "names", entry)
    graph = Graph(nodes=(Node(0, "Conv2d", "module", "conv"), Node(1, "ReLU", "module", "relu")))
    assert "Conv2d ReLU" == graph.to("names")
    assert "Conv2d ReLU" == graph.save(tmp_path / "net.names").read_text()


@pytest.mark.parametrize("suffix", [".svg", ".dot", ".mmd", ".md", ".txt", ".json", ".html"])
def test_save_writes_the_format_of_the_suffix(tmp_path, suffix):
    graph = build_module_graph(recorded(Net(1), image()))
    path = graph.save(tmp_path / f"graph{suffix}")
    form = {".mmd": "mermaid", ".md": "markdown", ".txt": "text"}.get(suffix, suffix[1:])
    assert graph.to(form) == path.read_text(encoding="utf-8")


def test_drawing_imports_no_torch(tmp_path):
    code = (
        "import sys; from cnnprobe.graph import Graph, Node\n"
        "g = Graph(nodes=(Node(0, 'ReLU', 'module', 'relu'),))\n"
        "[g.to(f) for f in ('svg', 'dot', 'mermaid', 'text', 'json', 'html')]; g.collapse(); "
        "g.diff(g)\nprint('torch' in sys.modules)"
    )
    import sys

    assert (
        "False\n"
        == subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    )
