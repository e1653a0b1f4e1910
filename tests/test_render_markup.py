"""Documents as Markdown, HTML and JSON: what a program or a page gets, with nothing in it that a
name could smuggle.
"""

import json
from html.parser import HTMLParser

import pytest

from cnnprobe.document.layout import lay_out_trace
from cnnprobe.document.render import (
    Code,
    Column,
    Document,
    Facts,
    Folded,
    Heading,
    Notice,
    Picture,
    Row,
    Table,
    Text,
    render,
)
from cnnprobe.records.schema import SCHEMA_VERSION
from tests.support import traces
from tests.test_render_text import every_document


def html(*blocks):
    return render(Document(blocks=blocks), "fragment")


def markdown(*blocks):
    return render(Document(blocks=blocks), "markdown")


class Page(HTMLParser):
    """The elements of a fragment; a void or unbalanced element shows up in `open`."""

    VOID = ("br",)

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def test_no_name_becomes_an_element_or_an_attribute():
    page = Page(render(every_document(), "fragment"))
    ours = {
        "div",
        "h2",
        "h3",
        "p",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "br",
        "strong",
        "details",
        "summary",
        "pre",
        "code",
        "figure",
        "figcaption",
        "svg",
        "style",
    }
    assert (set(), []) == (set(page.elements) - ours, page.open)
    assert {"class", "scope", "colspan", "align", "role", "aria-label"} >= {
        name for name, _ in page.attributes
    }


def test_hostile_text_is_still_there_to_be_read():
    text = "".join(Page(render(every_document(), "fragment")).texts)
    for literal in ("<script>alert(1)</script>", '"];', "\\x1b[31mred", "\\u202egnp"):
        assert literal in text


def test_a_fragment_has_no_script_and_its_style_stands_last():
    fragment = render(lay_out_trace(traces.tiny()), "fragment")
    assert "<script" not in fragment and "http" not in fragment
    assert fragment.endswith("</style>\n</div>\n") and 1 == fragment.count("<style>")


def test_a_table_has_a_caption_and_scopes():
    page = Page(
        html(
            Table(
                title="Layers",
                columns=(Column(name="name"), Column(name="n", align="right")),
                rows=(Row(cells=("a", 1)),),
            )
        )
    )
    assert {"table", "caption", "th"} <= set(page.elements)
    assert [("scope", "col")] * 2 + [("scope", "row")] == [
        pair for pair in page.attributes if pair[0] == "scope"
    ]


def test_a_long_table_shows_the_upper_levels_and_the_rest_behind_a_click():
    rows = [Row(cells=("top",)), *(Row(cells=(f"block{i}",), depth=1) for i in range(3))]
    rows[2:2] = [Row(cells=(f"leaf{i}",), depth=2) for i in range(100)]
    fragment = html(Table(title="Layers", columns=(Column(name="name"),), rows=tuple(rows)))
    page = Page(fragment)
    assert (1, 2) == (page.elements.count("details"), page.elements.count("table"))
    assert fragment.index("block2") < fragment.index("<details>") < fragment.index("leaf0")
    assert "<details><summary>block0: 100 rows</summary>" in fragment
    assert 1 + 3 + 100 == sum(("scope", "row") == pair for pair in page.attributes)


def test_what_went_wrong_is_not_hidden_behind_a_click():
    rows = [
        Row(cells=("top",)),
        Row(cells=("block",), depth=1),
        *(Row(cells=(f"leaf{i}",), depth=2) for i in range(100)),
    ]
    rows[50] = Row(cells=("broken",), depth=2, emphasis="error")
    assert "<details open>" in html(
        Table(title="", columns=(Column(name="name"),), rows=tuple(rows))
    )


def test_what_is_behind_a_click_is_named_by_its_path():
    rows = [
        Row(cells=("Net", "")),
        *(Row(cells=(f"layer{i}", "Sequential"), depth=1) for i in range(2)),
    ]
    rows += [
        Row(cells=("0", "Block"), depth=2),
        *(Row(cells=(f"leaf{i}", "ReLU"), depth=3) for i in range(100)),
    ]
    columns = (Column(name="name"), Column(name="kind"))
    assert "<summary>layer1 / 0 Block: 100 rows</summary>" in html(
        Table(title="", columns=columns, rows=tuple(rows))
    )


def test_a_short_table_is_shown_as_a_whole():
    assert "<details>" not in render(lay_out_trace(traces.tiny()), "fragment")


def test_folded_blocks_can_be_opened_without_a_script():
    assert "<details><summary>More</summary>\n<p>inside</p>\n</details>" in html(
        Folded(title="More", blocks=(Text(text="inside"),))
    )


def test_light_and_dark_come_from_the_host():
    fragment = html()
    for part in (
        "--jp-ui-font-color1",
        "--vscode-editor-foreground",
        "light-dark(",
        "html[theme=dark]",
        "[data-jp-theme-light=false]",
    ):
        assert part in fragment


def test_a_picture_goes_into_the_page_with_its_words():
    assert '<figure role="img" aria-label="a &lt;b&gt;"><svg></svg>' in html(
        Picture(svg="<svg></svg>", alt="a <b>")
    )


def test_markdown_pipes_and_markup_are_escaped_in_tables():
    rows = (Row(cells=("a|b",)), Row(cells=("*x*\n<b>`_",), depth=1))
    expected = "| name |\n|---|\n| a\\|b |\n| &nbsp;&nbsp;\\*x\\*\\\\n&lt;b&gt;\\`\\_ |\n"
    assert expected == markdown(Table(title="", columns=(Column(name="name"),), rows=rows))


def test_every_markdown_row_has_as_many_cells_as_there_are_columns():
    shown = render(lay_out_trace(traces.hostile()), "markdown")
    counts = {
        line.replace("\\|", "").count("|") for line in shown.split("\n") if line.startswith("|")
    }
    assert 1 == len(counts)


def test_markdown_has_no_markup_of_a_model():
    shown = render(every_document(), "markdown")
    outside = "".join(shown.split("```")[::2])
    assert "<script" not in outside and "\x1b" not in shown and "\u202e" not in shown


def test_a_markdown_fence_is_longer_than_any_in_the_code():
    assert "````python\n```\n````\n" == markdown(Code(text="```", language="python"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [("# x", "\\# x"), ("- x", "\\- x"), ("1. x", "1\\. x"), ("> x", "&gt; x"), ("    x", "x")],
)
def test_a_markdown_line_begins_nothing_by_itself(line, expected):
    assert expected + "\n" == markdown(Text(text=line))


def test_markdown_blocks_read_as_expected():
    shown = markdown(
        Heading(text="Net", level=1),
        Notice(severity="error", text="it broke", where="'fc'", fix="mend it"),
        Facts(pairs=(("MACs", "1 M"),)),
    )
    assert (
        "# Net\n\n> **error**: it broke  \n> where: 'fc'  \n> fix: mend it\n\n- **MACs**: 1 M\n"
        == shown
    )


def refuse(constant):
    raise AssertionError(constant)


def test_json_of_a_document_is_strict_and_says_its_schema_and_the_kind_of_each_block():
    columns = (Column(name="mean", align="right", unit="value"),)
    table = Table(
        title="",
        columns=columns,
        rows=(Row(cells=(float("nan"),)), Row(cells=(0.5,)), Row(cells=(None,))),
    )
    data = json.loads(
        render(Document(blocks=(Text(text="x"), table)), "json"), parse_constant=refuse
    )
    assert (SCHEMA_VERSION, "Document", ["Text", "Table"]) == (
        data["schema_version"],
        data["type"],
        [b["type"] for b in data["blocks"]],
    )
    assert [["NaN"], [0.5], [None]] == [row["cells"] for row in data["blocks"][1]["rows"]]


def test_json_of_hostile_names_is_ascii_and_strict():
    shown = render(every_document(), "json")
    assert shown.isascii()
    json.loads(shown, parse_constant=refuse)
