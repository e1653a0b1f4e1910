"""The package as a whole: what it exports, and what importing it does not import."""

import subprocess
import sys

import pytest

import cnnprobe


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


@pytest.mark.parametrize("name", cnnprobe.__all__)
def test_each_public_name_can_be_imported(name):
    assert getattr(cnnprobe, name) is not None


def test_all_is_what_dir_shows_and_what_has_a_home():
    assert sorted(cnnprobe.__all__) == dir(cnnprobe) == sorted([*cnnprobe._HOMES, "__version__"])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnprobe.nothing


def test_importing_the_package_imports_no_torch():
    assert "False" == run("import sys, cnnprobe; print('torch' in sys.modules)")


def test_reading_a_saved_report_imports_no_torch(tmp_path):
    import torch

    path = tmp_path / "report.json"
    cnnprobe.probe(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(path)
    code = f"import sys, cnnprobe; report = cnnprobe.load({str(path)!r}); print(report.to('text', width=80)); print('torch' in sys.modules)"
    lines = run(code).splitlines()
    assert "False" == lines[-1]
    assert any("Linear" in line for line in lines)
