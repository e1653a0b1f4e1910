"""The command: what it prints where, and how it exits."""

import json
import sys
from pathlib import Path

import pytest
import torch

import cnnprobe
from tests.support.command import run


def probe(model, *arguments, code=0):
    return run("probe", f"cli_models.py:{model}", *arguments, code=code)


def test_probe_shows_the_table_on_stdout_and_the_users_prints_on_stderr(command_folder):
    result = probe("Net", "--input", "1,3,8,8")
    assert "Conv2d" in result.stdout and "(1, 4, 6, 6)" in result.stdout
    assert "printed" not in result.stdout
    assert ["printed on import", "printed in forward"] == result.stderr.splitlines()


def test_probe_shows_what_the_verb_shows(command_folder):
    from cnnprobe.loading import load_inputs, load_model

    result = probe("Net", "--input", "1,3,8,8", "--format", "json", "--seed", "5")
    torch.manual_seed(5)
    (x,), _ = load_inputs(["1,3,8,8"], seed=5)
    with torch.no_grad():
        report = cnnprobe.probe(load_model("cli_models.py:Net").eval(), x)
    actual, expected = json.loads(result.stdout)["trace"], json.loads(report.to("json"))["trace"]
    assert [c["outputs"] for c in expected["calls"]] == [c["outputs"] for c in actual["calls"]]


def test_probe_passes_constructor_arguments(command_folder):
    assert "(1, 7)" in probe("Net", "--input", "1,3,8,8", "--arg", "out=7").stdout


def test_probe_loads_weights(command_folder):
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


def test_probe_says_what_input_it_takes_when_none_is_given(command_folder):
    result = probe("Net")
    assert "no input given: using --input 1,3,32,32" in result.stderr
    assert "(1, 3, 32, 32)" in result.stdout


@pytest.mark.parametrize(
    ("option", "training"), [((), False), (("--eval",), False), (("--train",), True)]
)
def test_probe_runs_in_the_mode_asked_for(command_folder, option, training):
    trace = json.loads(probe("Net", *option, "--format", "json").stdout)["trace"]
    assert {training} == {module["training"] for module in trace["modules"]}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_probe_runs_model_and_input_in_a_floating_dtype(command_folder, dtype):
    trace = json.loads(probe("Net", "--dtype", dtype, "--format", "json").stdout)["trace"]
    assert dtype == trace["calls"][0]["outputs"][0]["dtype"]


def test_probe_gives_integers_to_an_embedding(command_folder):
    assert "(2, 5, 4)" in probe("Words", "--input", "2,5", "--dtype", "int64").stdout


def test_probe_passes_keyword_inputs(command_folder):
    assert "(1, 2)" in probe("Net", "--input", "x=1,3,8,8", "--input", "scale=2").stdout


def test_probe_shows_shapes_alone_on_the_meta_device(command_folder):
    trace = json.loads(
        probe(
            "Net", "--device", "meta", "--input", "100000,3,10000,10000", "--format", "json"
        ).stdout
    )["trace"]
    assert ("meta", [100000, 2]) == (trace["mode"], trace["calls"][0]["outputs"][0]["shape"])


def test_probe_shows_shapes_alone_on_demand(command_folder):
    shown = probe("Net", "--shapes-only", "--input", "100000,3,10000,10000").stdout
    assert "(100000, 2)" in shown and "shapes only: no weight was read" in shown


def test_probe_depth_hides_deeper_rows(command_folder):
    assert "conv" not in probe("Net", "--depth", "0").stdout


def test_probe_shows_parameters(command_folder):
    assert "conv.weight  (4, 3, 3, 3)" in probe("Net", "--parameters").stdout


def test_probe_explains_shapes(command_folder):
    assert (
        "floor((8 + 2*0 - 1*(3-1) - 1)/1 + 1) = 6"
        in probe("Net", "--input", "1,3,8,8", "--explain-shapes").stdout
    )


def test_probe_of_a_model_without_parameters(command_folder):
    assert "Identity" in probe("Empty", "--input", "1,3").stdout


@pytest.mark.parametrize("width", [60, 80, 120])
def test_probe_text_fits_the_width(command_folder, width):
    assert all(len(line) <= width for line in probe("Net", "--width", width).stdout.splitlines())


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_probe_escapes_names(command_folder, form):
    out = probe("markup", "--format", form).stdout
    assert "\x1b" not in out
    assert "31m<script>" not in out or form == "text"


def test_probe_puts_no_colours_into_a_pipe(command_folder):
    assert "\x1b" not in probe("Crashes", code=3).output


def test_probe_of_a_crash_shows_the_rows_until_then_and_exits_3(command_folder):
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
        "no repair is known as a change of the source (channel-mismatch)" in result.stderr,
    )


def test_probe_of_a_crash_names_no_line_of_the_command_itself():
    result = run("probe", "torchvision:resnet18", "--input", "1,1,64,64", code=3)
    assert "where: module 'conv1' (Conv2d)\n" in result.stdout
    assert "click" not in result.stdout


def test_probe_of_a_crash_tells_it_on_stderr_where_a_machine_reads_the_result(command_folder):
    result = probe("Crashes", "--input", "1,3,8,8", "--format", "json", code=3)
    assert "RuntimeError" == json.loads(result.stdout)["trace"]["failure"]["kind"]
    assert (
        "the forward pass raised RuntimeError" in result.stderr
        and "cli_models.py:" in result.stderr
    )


def test_probe_of_a_crash_shows_the_traceback_on_debug(command_folder):
    assert (
        "return self.fc(self.conv(x))"
        in probe("Crashes", "--input", "1,3,8,8", "--debug", code=3).stderr
    )


@pytest.mark.parametrize("suffix", ["json", "md", "html", "txt"])
def test_probe_writes_the_format_that_the_suffix_names(command_folder, suffix):
    result = probe("Net", "-o", f"out.{suffix}")
    assert ("", True) == (result.stdout, Path(f"out.{suffix}").stat().st_size > 500)


def test_probe_writes_json_that_load_reads(command_folder):
    probe("Net", "-o", "out.json")
    assert "Net" == cnnprobe.load("out.json").trace.model


def test_probe_format_goes_before_the_suffix(command_folder):
    probe("Net", "-o", "out.txt", "--format", "json")
    assert "Net" == json.loads(Path("out.txt").read_text())["trace"]["model"]


def test_probe_keeps_an_old_result_when_the_new_one_cannot_be_had(command_folder):
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
def test_probe_fails_on_what_it_is_told_to(command_folder, model, check, code):
    result = probe(model, "--fail-on", check, code=code)
    assert (code == 1) == (f"--fail-on {check}" in result.stderr)
    assert result.stdout


def test_probe_fail_on_unused_names_the_module(command_folder):
    assert "'spare'" in probe("Unused", "--fail-on", "unused", code=1).stderr


def test_probe_takes_the_inner_layers_of_attention_for_used(command_folder):
    result = probe("Attention", "--input", "3,1,4", "--fail-on", "unused")
    assert "never called" not in result.stdout and "--fail-on" not in result.stderr


def test_probe_fails_on_nan_where_no_values_are_known(command_folder):
    assert "unknown" in probe("Net", "--device", "meta", "--fail-on", "nan", code=1).stderr


# --- the second opinion


def test_second_opinion_says_who_is_right(command_folder):
    out = probe("Net", "--input", "1,3,8,8", "--second-opinion").stdout
    macs = 4 * 6 * 6 * 27 + 8  # by hand: the convolution, the linear layer
    biases = 4 * 6 * 6 + 2
    assert f"{macs:,}" in out and f"{macs + biases:,}" in out
    assert "cnnprobe is right" in out
    assert f"{biases} more  counts each bias as a multiplication, in 2 modules" in out


def test_second_opinion_goes_to_stderr_beside_json(command_folder):
    result = probe("Net", "--second-opinion", "--format", "json")
    assert "trace" in json.loads(result.stdout)
    assert "cnnprobe is right" in result.stderr


def test_second_opinion_says_how_to_install_torchinfo(command_folder, monkeypatch):
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
    from cnnprobe.cli.second_opinion import ask_torchinfo
    from cnnprobe.loading import load_model

    with torch.device("meta"):
        model, x = load_model(name).eval(), torch.empty(1, 3, 224, 224)
    with torch.no_grad():
        opinion = ask_torchinfo(model, (x,), {}, trace=cnnprobe.probe(model, x).trace)
    macs = opinion.quantities[1]
    assert macs.theirs - macs.ours == sum(parting.macs for parting in opinion.partings)
    assert "cnnprobe is right" == macs.verdict
    assert "counts differently" not in {parting.reason for parting in opinion.partings}


def test_second_opinion_of_a_transposed_convolution():
    from cnnprobe.cli.second_opinion import ask_torchinfo

    model, x = torch.nn.ConvTranspose2d(2, 3, 4, stride=2, bias=False), torch.ones(1, 2, 5, 5)
    opinion = ask_torchinfo(model, (x,), {}, trace=cnnprobe.probe(model, x).trace)
    assert 5 * 5 * 2 * 3 * 16 == opinion.quantities[1].ours
    assert ["counts output positions instead of input positions in a transposed convolution"] == [
        p.reason for p in opinion.partings
    ]
