"""The command: what it prints where, and how it exits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cnnprobe
from cnnprobe.cli import main
from cnnprobe.document.render import list_formats
from tests.support.python import run_python

ROOT = Path(__file__).parent.parent
MODELS = """
import os, sys, time
import torch
from torch import nn
print("printed on import")

class Net(nn.Module):
    def __init__(self, out=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, out)
    def forward(self, x, scale=None):
        print("printed in forward")
        return self.fc(self.drop(self.conv(x).mean((2, 3))))

class Chatty(Net):
    def forward(self, x):
        os.system("echo printed by a child")
        return super().forward(x)

class Crashes(Net):
    def forward(self, x):
        return self.fc(self.conv(x))

class Unused(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
    def forward(self, x):
        return self.attention(x, x, x)[0]

class NotFinite(Net):
    def forward(self, x):
        return self.conv(x) / 0 * 0

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
    def forward(self, ids):
        return self.embed(ids)

class Sleeps(Net):
    def forward(self, x):
        open("sleeping", "w").close()
        time.sleep(60)

def markup():
    model = Net()
    model.add_module("[bold]red[/bold]\\x1b[31m<script>", nn.Linear(2, 2))
    return model

Empty = nn.Identity
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("cli_models.py").write_text(MODELS)
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert code == result.exit_code, result.output
    return result


def probe(model, *arguments, code=0):
    return run("probe", f"cli_models.py:{model}", *arguments, code=code)


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


def test_probe_shows_the_table_on_stdout_and_the_users_prints_on_stderr(folder):
    result = probe("Net", "--input", "1,3,8,8")
    assert "Conv2d" in result.stdout and "(1, 4, 6, 6)" in result.stdout
    assert "printed" not in result.stdout
    assert ["printed on import", "printed in forward"] == result.stderr.splitlines()


def test_probe_shows_what_the_verb_shows(folder):
    from cnnprobe.loading import load_inputs, load_model

    result = probe("Net", "--input", "1,3,8,8", "--format", "json", "--seed", "5")
    torch.manual_seed(5)
    (x,), _ = load_inputs(["1,3,8,8"], seed=5)
    with torch.no_grad():
        report = cnnprobe.probe(load_model("cli_models.py:Net").eval(), x)
    actual, expected = json.loads(result.stdout)["trace"], json.loads(report.to("json"))["trace"]
    assert [c["outputs"] for c in expected["calls"]] == [c["outputs"] for c in actual["calls"]]


def test_probe_passes_constructor_arguments(folder):
    assert "(1, 7)" in probe("Net", "--input", "1,3,8,8", "--arg", "out=7").stdout


def test_probe_loads_weights(folder):
    probe("Net", "--input", "1,3,8,8")  # imports the module
    state = {
        "conv.weight": torch.zeros(4, 3, 3, 3),
        "conv.bias": torch.zeros(4),
        "fc.weight": torch.zeros(2, 4),
        "fc.bias": torch.full((2,), 9.0),
    }
    torch.save(state, "w.pt")
    trace = json.loads(
        probe("Net", "--input", "1,3,8,8", "--weights", "w.pt", "--format", "json").stdout
    )["trace"]
    assert 9.0 == trace["calls"][0]["outputs"][0]["stats"]["mean"]


def test_probe_says_what_input_it_takes_when_none_is_given(folder):
    result = probe("Net")
    assert "no input given: taking --input 1,3,32,32" in result.stderr
    assert "(1, 3, 32, 32)" in result.stdout


@pytest.mark.parametrize(
    ("option", "training"), [((), False), (("--eval",), False), (("--train",), True)]
)
def test_probe_runs_in_the_mode_asked_for(folder, option, training):
    trace = json.loads(probe("Net", *option, "--format", "json").stdout)["trace"]
    assert {training} == {module["training"] for module in trace["modules"]}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_probe_runs_model_and_input_in_a_floating_dtype(folder, dtype):
    trace = json.loads(probe("Net", "--dtype", dtype, "--format", "json").stdout)["trace"]
    assert dtype == trace["calls"][0]["outputs"][0]["dtype"]


def test_probe_gives_integers_to_an_embedding(folder):
    assert "(2, 5, 4)" in probe("Words", "--input", "2,5", "--dtype", "int64").stdout


def test_probe_passes_keyword_inputs(folder):
    assert "(1, 2)" in probe("Net", "--input", "x=1,3,8,8", "--input", "scale=2").stdout


def test_probe_shows_shapes_alone_on_the_meta_device(folder):
    trace = json.loads(
        probe(
            "Net", "--device", "meta", "--input", "100000,3,10000,10000", "--format", "json"
        ).stdout
    )["trace"]
    assert ("meta", [100000, 2]) == (trace["mode"], trace["calls"][0]["outputs"][0]["shape"])


def test_probe_depth_hides_deeper_rows(folder):
    assert "conv" not in probe("Net", "--depth", "0").stdout


def test_probe_shows_parameters(folder):
    assert "conv.weight  (4, 3, 3, 3)" in probe("Net", "--parameters").stdout


def test_probe_explains_shapes(folder):
    assert (
        "floor((8 + 2*0 - 1*(3-1) - 1)/1 + 1) = 6"
        in probe("Net", "--input", "1,3,8,8", "--explain-shapes").stdout
    )


def test_probe_of_a_model_without_parameters(folder):
    assert "Identity" in probe("Empty", "--input", "1,3").stdout


@pytest.mark.parametrize("width", [60, 80, 120])
def test_probe_text_fits_the_width(folder, width):
    assert all(len(line) <= width for line in probe("Net", "--width", width).stdout.splitlines())


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_probe_escapes_names(folder, form):
    out = probe("markup", "--format", form).stdout
    assert "\x1b" not in out
    assert "31m<script>" not in out or form == "text"


def test_probe_puts_no_colours_into_a_pipe(folder):
    assert "\x1b" not in probe("Crashes", code=3).output


def test_probe_of_a_crash_shows_the_rows_until_then_and_exits_3(folder):
    result = probe("Crashes", "--input", "1,3,8,8", code=3)
    assert (
        "missing-flatten" in result.stdout
        and "raised here" in result.stdout
        and "conv" in result.stdout
    )
    assert "Traceback" not in result.output


def test_patch_says_which_repair_it_makes_and_leaves_installed_libraries_alone():
    result = run(
        "probe", "reference_models:CNNModelAsWritten", "--input", "2,3,32,32", "--patch", code=3
    )
    assert "\n+            nn.Flatten(),\n" in result.stdout
    assert result.stderr.startswith(
        "put nn.Flatten() first in 'classifier'; tried: the forward passes and gives (2, 10)"
    )
    result = run("probe", "torchvision:resnet18", "--input", "1,1,64,64", "--patch", code=3)
    assert ("", True) == (
        result.stdout,
        "no repair is known as a change of a line (channel-mismatch)" in result.stderr,
    )


def test_probe_of_a_crash_names_no_line_of_the_command_itself():
    result = run("probe", "torchvision:resnet18", "--input", "1,1,64,64", code=3)
    assert "where: module 'conv1' (Conv2d)\n" in result.stdout
    assert "click" not in result.stdout


def test_probe_of_a_crash_tells_it_on_stderr_where_a_machine_reads_the_result(folder):
    result = probe("Crashes", "--input", "1,3,8,8", "--format", "json", code=3)
    assert "RuntimeError" == json.loads(result.stdout)["trace"]["failure"]["kind"]
    assert (
        "the forward pass raised RuntimeError" in result.stderr
        and "cli_models.py:" in result.stderr
    )


def test_probe_of_a_crash_shows_the_traceback_on_debug(folder):
    assert (
        "return self.fc(self.conv(x))"
        in probe("Crashes", "--input", "1,3,8,8", "--debug", code=3).stderr
    )


@pytest.mark.parametrize("suffix", ["json", "md", "html", "txt"])
def test_probe_writes_the_format_that_the_suffix_names(folder, suffix):
    result = probe("Net", "-o", f"out.{suffix}")
    assert ("", True) == (result.stdout, Path(f"out.{suffix}").stat().st_size > 500)


def test_probe_writes_json_that_load_reads(folder):
    probe("Net", "-o", "out.json")
    assert "Net" == cnnprobe.load("out.json").trace.model


def test_probe_format_goes_before_the_suffix(folder):
    probe("Net", "-o", "out.txt", "--format", "json")
    assert "Net" == json.loads(Path("out.txt").read_text())["trace"]["model"]


def test_probe_keeps_an_old_result_when_the_new_one_cannot_be_had(folder):
    Path("out.json").write_text("old")
    run("probe", "cli_models.py:None", "-o", "out.json", code=2)
    assert "old" == Path("out.json").read_text()


# --- checks


@pytest.mark.parametrize(
    ("model", "check", "code"),
    [
        ("Net", "nan", 0),
        ("Net", "unused", 0),
        ("NotFinite", "nan", 1),
        ("NotFinite", "inf", 1),
        ("Unused", "unused", 1),
        ("Unused", "nan", 0),
    ],
)
def test_probe_fails_on_what_it_is_told_to(folder, model, check, code):
    result = probe(model, "--fail-on", check, code=code)
    assert (code == 1) == (f"--fail-on {check}" in result.stderr)
    assert result.stdout


def test_probe_fail_on_unused_names_the_module(folder):
    assert "'spare'" in probe("Unused", "--fail-on", "unused", code=1).stderr


def test_probe_takes_the_inner_layers_of_attention_for_used(folder):
    result = probe("Attention", "--input", "3,1,4", "--fail-on", "unused")
    assert "never called" not in result.stdout and "--fail-on" not in result.stderr


def test_probe_fails_on_nan_where_no_values_are_known(folder):
    assert "unknown" in probe("Net", "--device", "meta", "--fail-on", "nan", code=1).stderr


# --- the second opinion


def test_second_opinion_says_who_is_right(folder):
    out = probe("Net", "--input", "1,3,8,8", "--second-opinion").stdout
    macs = 4 * 6 * 6 * 27 + 8  # by hand: the convolution, the linear layer
    biases = 4 * 6 * 6 + 2
    assert f"{macs:,}" in out and f"{macs + biases:,}" in out
    assert "cnnprobe is right" in out
    assert f"{biases} more  counts each bias as a multiplication, in 2 modules" in out


def test_second_opinion_goes_to_stderr_beside_json(folder):
    result = probe("Net", "--second-opinion", "--format", "json")
    assert "trace" in json.loads(result.stdout)
    assert "cnnprobe is right" in result.stderr


def test_second_opinion_says_how_to_install_torchinfo(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchinfo", None)
    result = probe("Net", "--second-opinion", code=3)
    assert "pip install torchinfo" in result.stderr
    assert "Conv2d" in result.stdout


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:vit_b_16",
        "torchvision:swin_t",
        "torchvision:convnext_tiny",
        "torchvision:fcn_resnet50",
    ],
)
def test_second_opinion_accounts_for_the_whole_difference(name):
    from cnnprobe.cli.second_opinion import second_opinion
    from cnnprobe.loading import load_model

    with torch.device("meta"):
        model, x = load_model(name).eval(), torch.empty(1, 3, 224, 224)
    with torch.no_grad():
        opinion = second_opinion(model, (x,), {}, trace=cnnprobe.probe(model, x).trace)
    macs = opinion.quantities[1]
    assert macs.theirs - macs.ours == sum(parting.macs for parting in opinion.partings)
    assert "cnnprobe is right" == macs.verdict
    assert "counts otherwise" not in {parting.reason for parting in opinion.partings}


def test_second_opinion_of_a_transposed_convolution():
    from cnnprobe.cli.second_opinion import second_opinion

    model, x = torch.nn.ConvTranspose2d(2, 3, 4, stride=2, bias=False), torch.ones(1, 2, 5, 5)
    opinion = second_opinion(model, (x,), {}, trace=cnnprobe.probe(model, x).trace)
    assert 5 * 5 * 2 * 3 * 16 == opinion.quantities[1].ours
    assert ["takes the output's positions for the input's in a transposed convolution"] == [
        p.reason for p in opinion.partings
    ]


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
    from cnnprobe.cli.options import known_formats

    assert sorted(list_formats()) == sorted(known_formats())


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"], ["probe"]])
def test_help_and_usage_import_neither_torch_nor_rich(arguments):
    code = (
        "import sys\nfrom cnnprobe.cli import main\n"
        f"try: main({arguments!r}, prog_name='cnnprobe')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'rich', 'numpy', 'jinja2') if name in sys.modules], 'click' in sys.modules)"
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


def test_a_closed_pipe_ends_the_command_silently(folder):
    process = start("probe", "cli_models.py:Net", "--format", "json")
    process.stdout.close()
    assert (141, False) == (
        process.wait(120),
        "Traceback" in (error := process.stderr.read()) or "Exception" in error,
    )
    process.stderr.close()


def test_ctrl_c_ends_the_command_with_one_line(folder):
    process = start("probe", "cli_models.py:Sleeps", "--input", "1,3,8,8")
    deadline = time.monotonic() + 120
    while not Path("sleeping").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (130, "", "interrupted") == (process.returncode, out, error.strip().splitlines()[-1])
    assert "Traceback" not in error


def test_what_a_child_process_of_the_model_prints_stays_out_of_the_result(folder):
    arguments = ("probe", "cli_models.py:Chatty", "--input", "1,3,8,8", "--format", "json")
    done = run_python("-m", "cnnprobe", *arguments)
    assert "Chatty" == json.loads(done.stdout)["trace"]["model"]
    assert "printed by a child" in done.stderr


def test_a_terminal_that_lacks_a_letter_gets_escapes_not_a_failure(folder):
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


def test_a_full_disk_behind_stdout_is_told_in_one_message(folder):
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
