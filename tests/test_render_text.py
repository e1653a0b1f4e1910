"""Documents as text in a terminal."""

import re

import pytest
from rich.cells import cell_len

from cnnprobe.document.layout import View, lay_out_parameters, lay_out_trace
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
    list_formats,
    map_suffixes,
    render,
    units,
)
from cnnprobe.errors import UnknownNameError
from tests.support import traces

TINY_AT_80 = """\
Tiny

one forward pass on cpu, eval mode, torch 2.15.0; input (2, 3, 8, 8) float32

name             kind      input         output        parameters    MACs
---------------  --------  ------------  ------------  ----------  ------
Tiny                       (2, 3, 8, 8)  (2, 10)            5,354  37.9 k
  conv           Conv2d    (2, 3, 8, 8)  (2, 8, 8, 8)         224  27.6 k
  relu           ReLU      (2, 8, 8, 8)  (2, 8, 8, 8)           0       -
  torch.flatten  function  (2, 8, 8, 8)  (2, 512)                       0
  fc             Linear    (2, 512)      (2, 10)            5,130  10.2 k
MACs -: no formula (named below), or it did not run
not shown at 80 columns: bytes

parameters   5,354 (all trainable), 20.9 KiB of float32
MACs         37.9 k for this input (one multiply-add each; biases and
             normalisation are left out)
             3 of 4 operations have a formula (75.0%); not counted: ReLU (1)
activations  12.1 KiB, the outputs of all operations together
"""

FAILING_AT_80 = """\
error: the forward pass raised RuntimeError: mat1 and mat2 shapes cannot be
  multiplied (16x8 and 512x10)
  where: module 'fc' (Linear), given (2, 8, 8, 8), at net.py:12; after 2
         completed operations, the last was 'relu' (ReLU)
"""


def text(*blocks, width=80, colour=False):
    return render(Document(blocks=blocks), "text", width=width, colour=colour)


def test_a_small_model_is_shown_at_80_columns_as_a_person_would_write_it():
    assert TINY_AT_80 == render(lay_out_trace(traces.tiny()), "text", width=80)


def test_the_width_of_120_columns_is_used():
    shown = render(lay_out_trace(traces.tiny()), "text", width=120)
    assert "bytes" in shown.split("\n")[4] and "not shown" not in shown


def test_a_failure_stands_above_the_table_with_what_and_where():
    assert FAILING_AT_80 in render(lay_out_trace(traces.failing()), "text", width=80)


def test_the_failing_row_is_marked_below_it():
    lines = render(lay_out_trace(traces.failing()), "text", width=80).split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("  fc "))
    assert "raised here" in lines[at] and lines[at + 1].startswith(
        "    ^ raised here, given (2, 8, 8, 8): RuntimeError: mat1 and mat2"
    )


def every_document():
    document = lay_out_trace(
        traces.hostile(), View(sections=("failure", "modules", "totals", "notes", "parameters"))
    )
    nasty = " ".join(traces.HOSTILE)
    more = (
        Facts(title=nasty, pairs=tuple((name, nasty) for name in traces.HOSTILE)),
        Code(text="\n".join(traces.HOSTILE), language=nasty, title=nasty),
        Folded(title=nasty, blocks=(Text(text=nasty), Heading(text=nasty))),
        Picture(svg="<svg></svg>", alt=nasty, caption=nasty),
        Notice(severity="warning", text=nasty, where=nasty, fix=nasty, code="CP101"),
    )
    return Document(blocks=(*document.blocks, *lay_out_parameters(traces.hostile()).blocks, *more))


@pytest.mark.parametrize("width", [20, 40, 80, 81, 120, 200])
def test_no_line_is_wider_than_the_terminal_whatever_the_names(width):
    assert [] == [
        line
        for line in render(every_document(), "text", width=width).split("\n")
        if cell_len(line) > width
    ]


def test_no_control_character_and_no_bidi_mark_reaches_the_terminal():
    shown = render(every_document(), "text", width=80)
    assert [] == re.findall(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", shown
    )


def test_hostile_names_are_shown_as_they_are_written():
    shown = render(every_document(), "text", width=200)
    for literal in (
        "<script>alert(1)</script>",
        "[red]",
        '"];',
        "a|b",
        "\\x1b[31mred",
        "\\u202egnp",
        "line\\nbreak",
    ):
        assert literal in shown


def test_colour_codes_come_only_on_request():
    plain, coloured = (
        text(Heading(text="[red]x"), Notice(severity="error", text="y"), colour=c)
        for c in (False, True)
    )
    assert "\x1b" not in plain and "\x1b[1m[red]x\x1b[0m" in coloured
    assert plain == re.sub("\x1b\\[[0-9;]*m", "", coloured)


def wide_table(first="name"):
    columns = (
        Column(name=first),
        Column(name="kept", align="right", unit="count"),
        Column(name="middle", priority=1),
        Column(name="least", align="right", priority=9),
    )
    return Table(
        title="", columns=columns, rows=(Row(cells=("n" * 10, 1_234_567, "m" * 10, "l" * 10)),)
    )


def test_the_column_of_highest_priority_number_goes_first_and_that_is_said():
    assert "least" not in text(wide_table(), width=38).split("\n")[0]
    assert "middle" in text(wide_table(), width=38).split("\n")[0]
    assert "not shown at 38 columns: least" in text(wide_table(), width=38)
    assert "not shown at 28 columns: middle, least" in " ".join(
        text(wide_table(), width=28).split()
    )


def test_a_number_is_never_cut():
    for width in range(20, 60):
        assert "1,234,567" in text(wide_table(), width=width)


def test_a_text_that_may_be_cut_gives_way_before_a_column_that_matters():
    columns = (
        Column(name="name"),
        Column(name="kind", priority=1, least=8),
        Column(name="n", align="right", priority=2, unit="count"),
    )
    table = Table(title="", columns=columns, rows=(Row(cells=("a" * 10, "k" * 12, 1_000_000)),))
    assert "1,000,000" in text(table, width=32) and "kkkkk…kk" not in text(table, width=36)
    assert "1,000,000" not in text(table, width=30)


def test_numbers_keep_their_room_where_only_texts_can_give_way():
    columns = (
        Column(name="name"),
        Column(name="shape"),
        Column(name="elements", align="right", unit="count"),
    )
    shown = text(
        Table(title="", columns=columns, rows=(Row(cells=("n" * 50, "s" * 50, 25_557_032)),)),
        width=20,
    )
    assert "25,557,032" in shown


def test_a_long_name_is_cut_in_its_middle():
    row = Row(cells=("begin" + "x" * 100 + "end", 1, "", ""))
    (line,) = [
        line
        for line in text(
            Table(title="", columns=wide_table().columns, rows=(row,)), width=60
        ).split("\n")
        if "begin" in line
    ]
    assert re.search("beginx+…x+end", line)


def test_rows_deeper_than_the_indentation_say_their_depth():
    shown = render(lay_out_trace(traces.nested(50)), "text", width=80)
    assert "49: 0" in shown and "50: 0" in shown


def test_an_empty_document_is_empty_text():
    assert "" == text()


def test_blocks_without_content_are_rendered():
    assert "\n\n" == text(Facts(pairs=()), Text(text=""))


def test_formats_are_the_files_of_the_room():
    assert {"html", "json", "markdown", "text"} <= set(list_formats())
    assert ("markdown", "html") == (map_suffixes()[".md"], map_suffixes()[".html"])


def test_an_unknown_format_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError) as caught:
        render(Document(), "markdwon")
    assert ("no format named 'markdwon'", "did you mean 'markdown'?") == (
        caught.value.what,
        caught.value.fix,
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.format_si(1_147_466), "1.15 M"),
        (units.format_si(999_999), "1.00 M"),
        (units.format_si(999_499), "999 k"),
        (units.format_si(0), "0"),
        (units.format_si(4_089_184_256), "4.09 G"),
        (units.format_size(4 * 1_147_466), "4.38 MiB"),
        (units.format_size(1023), "1023 B"),
        (units.format_size(1024**2 - 1), "1024 KiB"),
        (units.format_value(-0.0001234), "-1.23e-04"),
        (units.format_value(9999.0), "9999"),
        (units.format_value(float("-inf")), "-Inf"),
        (units.format_percent(0.99951), ">99.9%"),
        (units.format_percent(0.9994), "99.9%"),
        (units.format_percent(0.0004), "<0.1%"),
        (units.format_seconds(0.0123), "12.3 ms"),
        (units.format_seconds(2), "2.00 s"),
        (units.format_seconds(0), "0.00 us"),
    ],
)
def test_numbers_are_written_in_their_units(shown, expected):
    assert expected == shown


def test_a_column_that_is_whole_keeps_its_text_where_a_lesser_column_can_go():
    columns = (
        Column(name="name"),
        Column(name="formula", is_whole=True),
        Column(name="given", priority=3),
    )
    formula = "(N, 16, floor((H + 3)/8), floor((W + 3)/8))"
    rows = (Row(cells=("conv", formula, "(2, 16, 8, 8)")),)
    table = Table(title="", columns=columns, rows=rows)
    text = render(Document(blocks=(table,)), "text", width=60)
    assert formula in text
    assert "not shown at 60 columns: given" in text
