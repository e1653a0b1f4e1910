"""The command as it starts and ends: its help, and what becomes of it as a process."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import cnnprobe
from cnnprobe.cli import main
from cnnprobe.document.render import list_formats
from tests.support.command import MODELS, run
from tests.support.python import run_python

ROOT = Path(__file__).parent.parent


def start(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
        **options,
    }
    return subprocess.Popen([sys.executable, "-m", "cnnprobe", *arguments], **pipes)


# --- help and start


def test_help_lists_the_commands_and_the_exit_codes():
    out = run("--help").stdout
    assert "probe" in out and "_CNNPROBE_COMPLETE" in out
    assert "  Exit codes: 0 fine, 1 a check failed, 2 usage,\n              3 the model" in out


def test_no_command_shows_the_help_as_a_usage_failure():
    result = run(code=2)
    assert ("", True) == (
        result.stdout,
        result.stderr.startswith("Usage: ")
        and re.search(r"\n  probe +Run one forward pass", result.stderr) is not None,
    )


def test_version_is_that_of_the_package():
    assert cnnprobe.__version__ in run("--version").stdout


def test_help_of_probe_lists_the_forms_of_a_spec_and_the_formats():
    out = run("probe", "--help").stdout
    for part in (
        "pkg.mod:attr",
        "path/to/file.py:Class",
        "torchvision:",
        "timm:",
        ".pt2",
        *list_formats(),
    ):
        assert part in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_formats_of_the_option_are_those_of_the_renderers():
    from cnnprobe.cli.options import list_known_formats

    assert sorted(list_formats()) == sorted(list_known_formats())


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"], ["probe"]])
def test_help_and_usage_import_neither_torch_nor_rich(arguments):
    code = (
        "import sys\nfrom cnnprobe.cli import main\n"
        f"try: main({arguments!r}, prog_name='cnnprobe')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'rich', 'numpy', 'jinja2') if name in sys.modules], "
        "'click' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "[] True" == done.stdout.splitlines()[-1]


def test_completion_offers_prefixes_and_formats():
    environment = {
        "COMP_WORDS": "cnnprobe probe torchv",
        "COMP_CWORD": "2",
        "_CNNPROBE_COMPLETE": "bash_complete",
    }
    result = CliRunner(env=environment).invoke(main, [], prog_name="cnnprobe")
    assert "plain,torchvision:" in result.stdout


# --- as a process


def test_a_closed_pipe_ends_the_command_silently(command_folder):
    process = start("probe", "cli_models.py:Net", "--format", "json")
    process.stdout.close()
    assert (141, False) == (
        process.wait(120),
        "Traceback" in (error := process.stderr.read()) or "Exception" in error,
    )
    process.stderr.close()


@pytest.mark.parametrize("presses", [1, 20])
def test_ctrl_c_ends_the_command_with_one_line(presses, command_folder):
    def listen():  # also where the tests run in the background of a shell, which ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start("probe", "cli_models.py:Sleeps", "--input", "1,3,8,8", preexec_fn=listen)
    deadline = time.monotonic() + 120
    while not Path("sleeping").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    before = "".join(itertools.takewhile(lambda line: line != "interrupted\n", process.stderr))
    for _ in range(presses - 1):  # while it ends
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (130, "", "") == (process.returncode, out, error.strip())
    assert "Traceback" not in before


def test_what_a_child_process_of_the_model_prints_stays_out_of_the_result(command_folder):
    arguments = ("probe", "cli_models.py:Chatty", "--input", "1,3,8,8", "--format", "json")
    done = run_python("-m", "cnnprobe", *arguments)
    assert "Chatty" == json.loads(done.stdout)["trace"]["model"]
    assert "printed by a child" in done.stderr


def test_a_terminal_that_lacks_a_letter_gets_escapes_not_a_failure(command_folder):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "latin-1",
        "PYTHONUTF8": "0",
    }
    Path("cli_models.py").write_text(MODELS + "class Сеть(Net): pass\n")
    out, error = start("probe", "cli_models.py:Сеть", "--depth", "0", env=environment).communicate(
        timeout=120
    )
    assert "\\u0421" in out and "Traceback" not in error


def test_a_full_disk_behind_stdout_is_told_in_one_message(command_folder):
    with open("/dev/full", "w") as full:
        process = start("probe", "cli_models.py:Net", "--input", "1,3,8,8", stdout=full)
        _, error = process.communicate(timeout=120)
    assert (2, 1, False) == (
        process.returncode,
        error.count("error: "),
        "Traceback" in error or "Exception" in error,
    )


def test_every_option_stands_in_the_reference_page():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    options = {
        option
        for command in main.commands.values()
        for p in command.params
        for option in (*p.opts, *p.secondary_opts)
        if option[0] == "-"
    }
    assert [] == sorted(option for option in options if f"`{option}" not in page)
