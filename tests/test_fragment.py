"""The piece of HTML in a notebook: its weight, its colours in each host, and what is left when a
host strips its styles.
"""

import re
from dataclasses import replace

import pytest

from benchmarks.chromium import BINARY
from cnnprobe.report import Report
from tests.support import histories, traces
from tests.support.pages import observed

needs_browser = pytest.mark.skipif(
    BINARY is None,
    reason="NOT TESTED: notebook output needs chromium on the PATH (apt-get install chromium)",
)
DARK_HOSTS = {
    "JupyterLab": (
        '<body data-jp-theme-light="false" style="--jp-ui-font-color1: rgba(255, 255, 255, '
        '1)">{}</body>'
    ),
    "VS Code": '<body class="vscode-dark" style="--vscode-editor-foreground: #d4d4d4">{}</body>',
    "Colab": "<html theme=dark><body>{}</body></html>",
    "furo": "<body data-theme=dark>{}</body>",
    "pydata": "<html data-theme=dark><body>{}</body></html>",
    "marimo": "<body class=dark>{}</body>",
    "Quarto": "<body data-bs-theme=dark>{}</body>",
}
LIGHT_HOSTS = {
    "plain": "<body>{}</body>",
    "JupyterLab": (
        '<body data-jp-theme-light="true" style="--jp-ui-font-color1: rgba(0, 0, 0, '
        '0.87)">{}</body>'
    ),
    "VS Code": '<body class="vscode-light" style="--vscode-editor-foreground: #3b3b3b">{}</body>',
    "Colab": "<html theme=light><body>{}</body></html>",
}


@pytest.fixture
def open_page(browser, tmp_path):
    def open_page(text, **options):
        path = tmp_path / "page.html"
        path.write_text(f'<!doctype html><meta charset="utf-8">{text}', encoding="utf-8")
        return browser.open(path, **options)

    return open_page


def distinct(trace):
    """No two rows are alike, so that none can be folded into another."""
    calls = (
        replace(
            one, outputs=tuple(replace(made, shape=(2, 64 + i, 112, 112)) for made in one.outputs)
        )
        for i, one in enumerate(trace.calls)
    )
    return replace(trace, calls=tuple(calls))


@pytest.mark.parametrize("blocks", [66, 133, 666], ids=["200 rows", "400 rows", "2,000 rows"])
def test_report_takes_no_more_room_in_a_notebook_than_it_bears(blocks):
    bundle = Report(trace=distinct(observed(traces.blocks(blocks))))._repr_mimebundle_()
    assert len(bundle["text/html"].encode()) < 300_000
    assert len(bundle["text/plain"].encode()) < 60_000


def test_rows_that_are_left_out_are_counted():
    bundle = Report(trace=distinct(traces.blocks(133)))._repr_mimebundle_()
    for text in bundle.values():
        assert "more rows are not shown here" in text


BRIGHTNESS = (
    "(selector => "
    "getComputedStyle(document.querySelector(selector)).color.match(/[\\d.]+/g).slice(0, "
    "3).map(Number).reduce((a, b) => a + b) / 3)"
)


@needs_browser
@pytest.mark.parametrize("host", DARK_HOSTS)
def test_text_is_bright_in_a_dark_host_whatever_the_system_prefers(open_page, host):
    page = open_page(
        DARK_HOSTS[host].format(Report(trace=traces.failing()).to("fragment")), dark=False
    )
    assert page.run(f"{BRIGHTNESS}('.cnnprobe td')") > 120
    assert page.run(f"{BRIGHTNESS}('.cnnprobe strong.error')") > 120
    page.close()


@needs_browser
@pytest.mark.parametrize("host", LIGHT_HOSTS)
def test_text_is_dark_in_a_light_host_even_on_a_dark_system(open_page, host):
    page = open_page(
        LIGHT_HOSTS[host].format(Report(trace=traces.failing()).to("fragment")), dark=True
    )
    assert page.run(f"{BRIGHTNESS}('.cnnprobe td')") < 120
    assert page.run(f"{BRIGHTNESS}('.cnnprobe strong.error')") < 120
    page.close()


def stripped(fragment):
    """What is left where style elements, scripts, drawings, and all attributes but those of a table
    are taken away.
    """
    text = re.sub(r"<(style|svg)\b.*?</\1>", "", fragment, flags=re.DOTALL)
    return re.sub(r' (?!align|scope|colspan)[a-z-]+="[^"]*"', "", text)


@needs_browser
def test_without_its_styles_it_is_still_a_table_with_an_error_above(open_page):
    text = stripped(Report(trace=traces.failing(), history=histories.training()).to("fragment"))
    page = open_page(text)
    columns = page.run(
        "[...document.querySelectorAll('table')].map(t => [...t.rows].filter(r => "
        "r.cells.length > 2).map(r => [...r.cells].map(c => "
        "c.getBoundingClientRect().x))).filter(rows => rows.length)"
    )
    assert all(row == rows[0] for rows in columns for row in rows)
    texts = page.run("document.body.innerText")
    order = [texts.index(said) for said in ("error", "16x8 and 512x10", "conv", "raised here")]
    assert sorted(order) == order
    assert "font-size" not in texts
    assert page.run(
        "document.querySelector('td[align=right]') !== null && "
        "getComputedStyle(document.querySelector('td[align=right]')).textAlign.endsWith('right')"
    )
    page.close()


@needs_browser
def test_charts_say_what_they_show_where_they_are_stripped(open_page):
    page = open_page(Report(trace=traces.tiny(), history=histories.training()).to("fragment"))
    labels = page.run(
        "[...document.querySelectorAll('figure')].map(figure => figure.getAttribute('aria-label'))"
    )
    assert "loss: 2.300 at step 0" in labels[0]
    page.close()
