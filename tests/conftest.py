"""What all tests share."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from benchmarks.chromium import Browser
from cnnprobe.document.render import render
from cnnprobe.remedies import trials
from cnnprobe.report import Report
from tests.support.command import MODELS


@pytest.fixture(autouse=True, scope="module")
def _freeze_what_was_imported():
    """The hundred thousands of objects that imports make are not visited by every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_clock_decides():
    """Trials end by their budget, also where other programs keep the processor busy."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trials, "LEAST_SECONDS", 600.0)
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of a process."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def show(browser, tmp_path):
    """A document or a report as a page in the browser; whatever was done with it, it must not have
    complained or asked for anything.
    """
    pages = []

    def open_page(shown, **options):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(
            shown.to("html") if isinstance(shown, Report) else render(shown, "html"),
            encoding="utf-8",
        )
        pages.append(browser.open(path, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        assert ([], []) == (page.complaints(), page.requests())
        page.close()


@pytest.fixture
def command_folder(tmp_path, monkeypatch):
    """A folder of its own for the command, with the models of `cli_models.py`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("cli_models.py").write_text(MODELS)
    return tmp_path
