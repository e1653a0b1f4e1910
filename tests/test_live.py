"""A display that is drawn again while a training runs, and a notebook run for real: what its cells
put out.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import cnnprobe
from benchmarks.chromium import BINARY
from tests.support import histories

CELLS = (
    (
        "import torch, time, dataclasses\n%load_ext cnnprobe\nimport cnnprobe\nfrom torch import "
        "nn\nfrom cnnprobe.records.history import Curve, History\nmodel = "
        "nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())"
    ),
    "cnnprobe.probe(model, torch.ones(1, 3, 8, 8))",
    (
        "class Run: history = None\nrun = Run()\n"
        "with cnnprobe.live(run, seconds=0) as display:\n"
        "    for n in range(1, 4):\n"
        "        run.history = History(model='Net', total=n, curves=(Curve(name='loss', "
        "steps=tuple(range(n)), values=(1.0,) * n),))\n        display.update()"
    ),
    "%%probe model\nmodel(torch.ones(1, 5, 8, 8))",
)
RUN = """
import sys, nbformat, nbclient
from nbconvert import HTMLExporter
cells = [nbformat.v4.new_code_cell(text) for text in __import__("json").load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
nbformat.write(notebook, "notebook.ipynb")
for theme in ("light", "dark"):
    open(theme + ".html", "w").write(HTMLExporter(theme=theme).from_notebook_node(notebook)[0])
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The folder of a notebook that Jupyter has run, and that nbconvert has made pages of."""
    for needed in ("nbclient", "nbconvert", "ipykernel"):
        pytest.importorskip(needed, reason=f"NOT TESTED: a notebook run for real needs {needed}")
    folder = tmp_path_factory.mktemp("notebook")
    command = [sys.executable, "-W", "ignore", "-c", RUN]
    subprocess.run(
        command,
        input=json.dumps(CELLS),
        text=True,
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=240,
    )
    return folder


def outputs(folder, cell):
    return json.loads((folder / "notebook.ipynb").read_text())["cells"][cell]["outputs"]


def test_report_in_a_notebook_is_a_table_and_text(notebook):
    (output,) = outputs(notebook, 1)
    assert {"text/html", "text/plain"} == set(output["data"])
    assert "Conv2d" in "".join(output["data"]["text/plain"])


def test_live_display_is_one_output_that_shows_the_latest_step(notebook):
    (output,) = outputs(notebook, 2)
    assert "3 training steps" in "".join(output["data"]["text/plain"])
    assert "cnnprobe-chart" in "".join(output["data"]["text/html"])


def test_explanation_of_a_crash_stands_above_its_traceback(notebook):
    shown, error = outputs(notebook, 3)
    assert ("display_data", "error", "RuntimeError") == (
        shown["output_type"],
        error["output_type"],
        error["ename"],
    )
    assert "channels" in "".join(shown["data"]["text/html"])


@pytest.mark.skipif(
    BINARY is None,
    reason="NOT TESTED: notebook output needs chromium on the PATH (apt-get install chromium)",
)
@pytest.mark.parametrize(("theme", "other"), [("light", "dark"), ("dark", "light")])
def test_page_of_a_notebook_shows_reports_in_its_own_theme_and_numbers_alone_on_the_right(
    notebook, browser, theme, other
):
    page = browser.open(
        notebook / f"{theme}.html", dark=other == "dark"
    )  # the system's setting is not the notebook's
    brightness = (
        "getComputedStyle(document.querySelector('.cnnprobe "
        "td')).color.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    )
    assert ({"light": 0, "dark": 1}[theme]) == round(sum(page.run(brightness)) / 3 / 255)
    aligned = (
        "[...new Set([...document.querySelectorAll('.cnnprobe td:not([align])')].map(cell => "
        "getComputedStyle(cell).textAlign))]"
    )
    assert ["left"] == page.run(aligned)
    page.close()


def test_live_display_outside_a_notebook_shows_nothing(capfd):
    with cnnprobe.live(SimpleNamespace(history=histories.training())) as display:
        display.update()
    assert ("", "") == capfd.readouterr()


def test_live_display_of_nothing_yet_says_so():
    assert {"text/plain": "nothing was watched so far"} == cnnprobe.live(
        SimpleNamespace(history=None)
    )._repr_mimebundle_()
