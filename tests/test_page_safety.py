"""The HTML page in a real browser: what gets into it can do nothing, and everybody can read it."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

from cnnprobe.document.render import (
    Code,
    Folded,
    Text,
)
from cnnprobe.report import Report
from tests.support import traces
from tests.support.pages import FAMILY, SEEN, blocks_of, needs_browser, observed, with_statistics
from tests.test_render_text import every_document

WEB = (
    pathlib.Path(__file__).parent / "web"
)  # package.json and package-lock.json: the exact version of axe-core, and its hash


@needs_browser
def test_hostile_names_do_nothing_and_are_seen_as_they_are(show):
    page = show(Report(trace=traces.hostile()))
    for row in ("c1", "c6", "c7"):
        page.click(f"#{row}")
    names = page.run(
        "['c1', 'c3', 'c6'].map(key => document.getElementById(key).cells[0].lastChild.textContent)"
    )
    assert 2 == page.run(
        "[...document.scripts].filter(script => script.type !== 'application/gzip').length"
    )
    assert ["<script>alert(1)</script>", '"];', "\\u202egnp"] == names
    marks = page.run("document.body.innerText.match(/[\\u202a-\\u202e\\u2066-\\u2069\\x1b]/g)")
    assert marks is None


@needs_browser
def test_policy_stops_what_got_into_the_page_all_the_same(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(Report(trace=traces.tiny()).to("html"), encoding="utf-8")
    page = browser.open(path)
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: "
        "'window.got = 1'}))"
    )
    page.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.got = 1\">')"
    )
    assert "refused" == page.run("fetch('page.html').then(() => 'fetched', () => 'refused')")
    assert page.run("window.got === undefined")
    page.close()


@needs_browser
def test_page_can_be_read_without_its_script(browser, tmp_path):
    path = tmp_path / "page.html"
    text = Report(trace=traces.blocks(100)).to("html")
    path.write_text(
        re.sub(r"script-src ('sha256-[^']+' ?)+", "script-src 'none'", text), encoding="utf-8"
    )
    page = browser.open(path)
    assert 301 == len(page.run(SEEN))
    page.close()


@needs_browser
def test_paper_shows_what_is_folded_and_no_control(show):
    page = show(blocks_of(FAMILY, Folded(title="More", blocks=(Text(text="inside"),))))
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.run("document.querySelector('details p').offsetHeight") > 0
    assert 0 == page.run("document.querySelector('.tools').offsetHeight")
    assert page.pdf().startswith(b"%PDF")


@needs_browser
def test_code_is_copied_or_selected_to_be_typed(show):
    page = show(blocks_of(Code(text="nn.Flatten()\nnn.Linear(4, 2)")))
    page.click(".copy")
    page.run("new Promise(done => setTimeout(done, 200))")
    assert page.run("document.querySelector('.copy').textContent") in ("Copied", "Selected")


@pytest.fixture(scope="module")
def axe():
    """axe-core's script; installed once, by npm and from the lock file, into a folder that git
    ignores.
    """
    script = WEB / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists() and shutil.which("npm"):
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=WEB,
            capture_output=True,
            timeout=120,
            check=False,
        )
    if not script.exists():
        pytest.skip(
            "NOT TESTED: whether the page is accessible needs axe-core (npm ci in tests/web)"
        )
    return script.read_text(encoding="utf-8")


SHOWN = {
    "tiny": lambda: Report(trace=with_statistics()),
    "failing": lambda: Report(trace=traces.failing()),
    "hostile": lambda: Report(trace=traces.hostile()),
    "many": lambda: Report(trace=observed(traces.blocks(60))),
    "every kind of block": every_document,
}


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("shown", SHOWN)
def test_screen_readers_and_weak_eyes_have_nothing_serious_to_complain_of(show, axe, shown, dark):
    page = show(SHOWN[shown](), dark=dark)
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.click("tbody tr")
    page.run(
        "new Promise(done => setTimeout(done, 400))"
    )  # the mark has faded in: colours on the way there are nobody's
    page.run(axe + "; 0")
    found = page.run(
        "axe.run().then(r => r.violations.filter(v => ['serious', "
        "'critical'].includes(v.impact)).map(v => [v.id, v.nodes[0].html, "
        "v.nodes[0].failureSummary]))"
    )
    assert [] == found, json.dumps(found, indent=1)
