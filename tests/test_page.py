"""The HTML page as a file: what it holds, and that nothing in it can do anything."""

from html.parser import HTMLParser

import pytest

from cnnprobe.document.render import (
    Code,
    Column,
    Document,
    Facts,
    Folded,
    Notice,
    Picture,
    Row,
    Share,
    Shares,
    Spread,
    Table,
    Text,
    render,
)
from cnnprobe.errors import ProbeError
from cnnprobe.records.trace import Histogram
from cnnprobe.report import Report
from cnnprobe.saved import load
from tests.support import traces
from tests.support.pages import blocks_of, observed, with_statistics
from tests.test_render_text import every_document


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_page_refers_to_nothing_outside_itself():
    elements = Elements(Report(trace=with_statistics()).to("html")).found
    addresses = [
        said
        for _, given in elements
        for name, said in given.items()
        if name in ("src", "href", "action", "srcset", "xlink:href")
    ]
    assert set() == {said for said in addresses if not said.startswith("#") and said != "data:,"}
    assert "default-src 'none'" in next(
        given["content"] for _, given in elements if "http-equiv" in given
    )


def test_page_has_no_element_of_a_hostile_name_and_no_handler():
    elements = Elements(render(every_document(), "html")).found
    assert 2 == sum(
        tag == "script" and given.get("type") != "application/gzip" for tag, given in elements
    )
    assert [] == [name for _, given in elements for name in given if name.startswith("on")]


def test_page_says_every_text_of_every_kind_of_block():
    table = Table(
        title="T",
        columns=(Column(name="c"),),
        rows=(Row(cells=("cell",), note="note"),),
        notes=("foot",),
    )
    inner = (Text(text="folded text"), Code(text="x = 1", title="code title"))
    document = blocks_of(
        Text(text="a text"), Facts(title="facts", pairs=(("name", "said"),)), table,
        Folded(title="fold", blocks=inner), Shares(title="whole", unit="si",
            parts=(Share(name="part", number=3),)),
            Picture(svg="<svg></svg>", alt="in words", caption="below"),
        Notice(severity="error", text="broken", where="there", fix="mend it", code="CP101"),
    )  # fmt: skip
    page = render(document, "html")
    texts = (
        "a text|facts|name|said|>T<|>c<|cell|note|foot|fold|folded text|x = 1|code "
        "title|whole|part|100%, 3|in words|below|broken|there|mend it|CP101"
    )
    assert [] == [text for text in texts.split("|") if text not in page]


@pytest.mark.parametrize(
    "trace",
    [traces.hostile(), with_statistics(), traces.failing()],
    ids=["hostile", "tiny", "failing"],
)
def test_report_inside_a_page_is_the_report(tmp_path, trace):
    report = Report(trace=trace)
    report.save(tmp_path / "report.html")
    assert report == load(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("change", "what"),
    [(("H4sI", "H5sI"), "damaged"), (('id="data"', 'id="other"'), "contains no report")],
    ids=["damaged", "without"],
)
def test_page_without_its_report_says_so(tmp_path, change, what):
    path = tmp_path / "report.html"
    path.write_text(Report(trace=traces.tiny()).to("html").replace(*change))
    with pytest.raises(ProbeError, match=what):
        load(path)


@pytest.mark.parametrize(
    ("blocks", "most"), [(66, 300_000), (666, 2_000_000)], ids=["200 modules", "2,000 modules"]
)
def test_weight_of_a_page(blocks, most):
    assert len(Report(trace=observed(traces.blocks(blocks))).to("html").encode()) < most


def test_spread_is_drawn_with_its_numbers_in_words():
    spread = Spread(minimum=-4.0, mean=0.5, std=2.0, maximum=8.0, zeros=0.5)
    page = render(
        Document(
            blocks=(
                Table(title="", columns=(Column(name="values"),), rows=(Row(cells=(spread,)),)),
            )
        ),
        "html",
    )
    assert 'role="img" aria-label="-4.000 to 8.000, mean 0.5000, std 2.000, 50.0% zeros"' in page


def test_histogram_bars_stand_at_their_powers_of_two_and_add_up():
    histogram = Histogram(lowest=0, negative=(0, 4), positive=(8, 2))
    spread = Spread(minimum=-3.0, mean=0.0, std=1.0, maximum=3.0, histogram=histogram)
    page = render(
        Document(
            blocks=(
                Table(title="", columns=(Column(name="values"),), rows=(Row(cells=(spread,)),)),
            )
        ),
        "html",
    )
    # from left: -4..-2 holds 4 of at most 8, -2..-1 none, zero, 1..2 holds 8, 2..4 holds 2: heights
    # 8 0 0 16 4 of 16
    assert 'd="M0 16v-8h1v8h2v-16h1v12h1V16z"' in page
