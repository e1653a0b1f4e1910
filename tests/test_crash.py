"""What is said of a crash: the fault and the module are right, the repair mends it, the corrected
twin crashes no more.
"""

import functools
import pathlib
import re
import subprocess
import sys
import types

import pytest
import torch
from crashes import code, displaced, joins, layers, placement, training
from crashes.table import TABLE
from torch import nn

import cnnprobe
from cnnprobe.crash import NOTHING_SEEN, Crash, explained
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder import Recording, observe

ROOMS = (code, displaced, joins, layers, placement, training)
CASES = [pytest.param(sick, id=sick.name) for sick in TABLE]
META = [pytest.param(sick, id=sick.name) for sick in TABLE if sick.on_meta]
STEPS = [pytest.param(sick, id=sick.name) for sick in training.STEPS]


def explain(model, args):
    seen = observe(model, args, {})
    assert seen.error is not None
    return explained(Crash(error=seen.error, model=model, trace=seen.trace, args=args))


@functools.cache
def explain_sick(name):
    """What is said of a sick model, with the number of copies that ran for it; asked by several
    tests.
    """
    sick = next(sick for sick in TABLE if sick.name == name)
    count, run = [], ModelCopy.run
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModelCopy, "run", lambda self: count.append(1) or run(self))
        return explain(*sick.build(False)), len(count)


def text_of(explanation):
    return " ".join(
        [
            explanation.message,
            explanation.arithmetic,
            *(repair.title for repair in explanation.repairs),
        ]
    )


def explain_step(sick):
    model, step = sick.build(False)
    recording = Recording(model)
    try:
        with recording:
            try:
                step()
            finally:
                given = recording.given
    except Exception as error:
        return explained(
            Crash(
                error=error,
                model=model,
                trace=recording.traces[-1] if recording.traces else NOTHING_SEEN,
                args=given[0],
            )
        )
    raise AssertionError(f"{sick.name} does not crash")


@pytest.mark.parametrize("sick", CASES)
def test_fault_and_module_of_a_crash_are_named(sick):
    explanation, _ = explain_sick(sick.name)
    assert (sick.diagnosis, True) == (explanation.diagnosis, explanation.module in sick.blames), (
        explanation.message
    )
    assert sick.repair in text_of(explanation)


@pytest.mark.parametrize("sick", META)
def test_fault_and_module_of_a_crash_on_meta_are_named(sick):
    model, args = sick.build(False)
    explanation = explain(model.to("meta"), tuple(x.to("meta") for x in args))
    assert (sick.diagnosis, True) == (explanation.diagnosis, explanation.module in sick.blames), (
        explanation.message
    )


@pytest.mark.parametrize("sick", CASES)
def test_corrected_twin_gives_no_explanation(sick):
    model, args = sick.build(True)
    report = cnnprobe.probe(model, *args)
    assert (True, None, None) == (report.ok, report.explanation, report.error)


def patched_module(patch, name, folder):
    path = re.match(r"--- a/(\S+)", patch).group(1)
    target = folder / path.rpartition("/")[2]
    target.write_text(pathlib.Path(path).read_text())
    subprocess.run(["patch", "-s", str(target)], input=patch, text=True, check=True)
    module = types.ModuleType(f"patched_{name}")
    module.__file__ = str(target)
    sys.modules[module.__name__] = module
    exec(
        compile(target.read_text().replace("TABLE.append", "str"), str(target), "exec"),
        module.__dict__,
    )
    return module


@pytest.mark.parametrize("sick", CASES)
def test_patch_makes_the_users_file_run_with_the_output_that_was_promised(
    sick, tmp_path, monkeypatch
):
    explanation, _ = explain_sick(sick.name)
    monkeypatch.setattr("crashes.table.TABLE", list(TABLE))
    for i, repair in enumerate(repair for repair in explanation.repairs if repair.patch):
        folder = tmp_path / str(i)
        folder.mkdir()
        model, args = getattr(patched_module(repair.patch, sick.name, folder), sick.name)(False)
        seen = observe(model, args, {})
        assert (None, repair.outputs) == (
            seen.error,
            tuple(t.shape for t in seen.trace[""].outputs),
        )


def test_most_repairs_of_layers_have_a_patch():
    models = [sick for sick in TABLE if not isinstance(sick.build(False)[0], nn.Sequential)]
    patched = [
        sick.name
        for sick in models
        if any(repair.patch for repair in explain_sick(sick.name)[0].repairs)
    ]
    assert len(patched) >= 0.5 * len(models)


@pytest.mark.parametrize("sick", STEPS)
def test_fault_of_a_loss_a_backward_or_an_optimizer_is_named(sick):
    explanation = explain_step(sick)
    assert (sick.diagnosis, True) == (explanation.diagnosis, explanation.module in sick.blames), (
        explanation.message
    )
    assert sick.repair in text_of(explanation)


@pytest.mark.parametrize("sick", STEPS)
def test_corrected_step_passes_under_record(sick):
    model, step = sick.build(True)
    with cnnprobe.record(model) as recording:
        step()
    assert recording.explanation is None


# -- the model that lost its flatten ---------------------------------------------------------------


def test_lost_flatten_is_repaired_in_the_classifier_and_in_features_ranks_last():
    repairs = explain(layers.AsWritten(), (torch.randn(2, 3, 32, 32),)).repairs
    assert "put nn.Flatten() first in 'classifier'" == repairs[0].title
    assert "pass torch.flatten(x, 1) to 'classifier'" == repairs[1].title
    assert (
        "tried: the forward passes and gives (2, 10); 1,147,466 parameters unchanged"
        == repairs[0].tried
        == repairs[1].tried
    )
    assert (((2, 128, 4, 10),), False) == (repairs[-1].outputs, repairs[-1].plausible)
    assert "in_features=4" in repairs[-1].title


def test_reference_model_that_lost_its_flatten_is_explained():
    from reference_models.models import CNNModelAsWritten

    explanation = explain(CNNModelAsWritten(), (torch.randn(2, 3, 32, 32),))
    assert ("missing-flatten", "classifier") == (explanation.diagnosis, explanation.module)
    assert (
        "tried: the forward passes and gives (2, 10); 1,147,466 parameters unchanged"
        == explanation.repairs[0].tried
    )
    assert "+            nn.Flatten()," in explanation.repairs[0].patch


def test_repair_put_into_the_real_model_makes_it_run():
    model = layers.AsWritten()
    model.classifier.insert(0, nn.Flatten())
    assert (2, 10) == model(torch.randn(2, 3, 32, 32)).shape
    assert 1_147_466 == sum(p.numel() for p in model.parameters())


# -- promises --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sick", CASES)
def test_model_is_bit_for_bit_as_it_was_after_a_crash_was_explained(sick):
    model, args = sick.build(False)
    before = {
        name: value.clone() for name, value in model.state_dict().items() if not value.is_meta
    }
    modes = [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    generator = torch.get_rng_state()
    cnnprobe.probe(model, *args)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert modes == [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    assert attributes == {name: set(module.__dict__) for name, module in model.named_modules()}
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("sick", CASES)
def test_explaining_costs_at_most_twenty_forwards(sick):
    _, runs = explain_sick(sick.name)
    assert runs <= 20


def test_explanation_survives_saving_and_loading(tmp_path):
    report = cnnprobe.probe(layers.AsWritten(), torch.randn(2, 3, 32, 32))
    report.save(tmp_path / "report.json")
    assert report.explanation == cnnprobe.load(tmp_path / "report.json").explanation
    assert report.explanation.diagnosis == "missing-flatten"


def test_saved_explanation_is_shown_without_torch(tmp_path):
    cnnprobe.probe(layers.AsWritten(), torch.randn(2, 3, 32, 32)).save(tmp_path / "report.json")
    script = (
        f"import sys, cnnprobe; print(cnnprobe.load({str(tmp_path / 'report.json')!r})); assert "
        "'torch' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert "missing-flatten" in shown
    assert "tried: the forward passes and gives (2, 10)" in shown


def test_report_shows_the_explanation_above_the_rows():
    text = str(cnnprobe.probe(layers.AsWritten(), torch.randn(2, 3, 32, 32)))
    assert (
        0
        < text.index("missing-flatten")
        < text.index("put nn.Flatten()")
        < text.index("raised here")
    )


def test_cause_that_is_not_known_is_said_so_with_the_evidence():
    class Odd(nn.Module):
        def forward(self, x):
            raise ValueError("no")

    explanation = cnnprobe.probe(Odd(), torch.ones(2)).explanation
    assert ("unknown", ()) == (explanation.diagnosis, explanation.repairs)
    assert "not known" in explanation.message
    assert explanation.line == 'raise ValueError("no")'


def test_model_that_cannot_be_copied_is_explained_without_trial():
    class Locked(layers.NoFlatten):
        def __init__(self):
            super().__init__(False)
            self.lines = (line for line in ())

    explanation = cnnprobe.probe(Locked(), torch.randn(2, 3, 32, 32)).explanation
    assert "missing-flatten" == explanation.diagnosis
    assert all(repair.tried == "" and not repair.works for repair in explanation.repairs)
    assert any("no repair was tried" in sentence for sentence in explanation.evidence)


def test_overwritten_tensor_is_repaired_by_a_trial_of_the_backward():
    model, step = training.addition_in_place_to_a_sigmoid(False)
    with pytest.raises(RuntimeError), cnnprobe.record(model) as recording:
        step()
    best = recording.explanation.repairs[0]
    assert (True, "tried: forward and backward pass on a copy of the model") == (
        best.works,
        best.tried,
    )
    assert "+            x = x + 1" in best.patch


class Losses(nn.Module):
    """Gives losses in train mode and boxes in eval mode, as a detector of torchvision does."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, images, targets=None):
        boxes = [
            {"boxes": self.fc(image), "scores": image.new_ones(len(image))} for image in images
        ]
        if not self.training:
            return boxes
        return {"loss_a": boxes[0]["boxes"].sum(), "loss_b": targets["boxes"].sum()}


def test_repair_names_the_entries_of_the_dicts_that_the_forward_gives_then():
    images = [torch.ones(2, 4), torch.ones(3, 4)]
    found = cnnprobe.probe(Losses(), images).explanation
    assert ("missing-targets", True) == (found.diagnosis, found.repairs[0].plausible)
    assert "a list of 2 dicts, the first with boxes (2, 4), scores (2,);" in found.repairs[0].tried


def test_model_that_may_go_without_targets_is_not_blamed_for_their_lack():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x, targets=None):
            return self.fc(x[:, :3] if self.training else x)

    found = cnnprobe.probe(Free(), torch.ones(5, 4)).explanation
    assert found.diagnosis != "missing-targets"


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        out = torch.sigmoid(self.fc1(x))
        scale = 2
        out *= scale + 1
        return self.fc2(out)


def test_repair_of_a_statement_in_place_keeps_its_names_and_its_operand_whole():
    model, x = Scaling(), torch.randn(5, 6)
    with pytest.raises(RuntimeError), cnnprobe.record(model) as recording:
        model(x).sum().backward()
    best = recording.explanation.repairs[0]
    assert "write out = out * (scale + 1) instead of out *= scale + 1" in best.title
    assert "+        out = out * (scale + 1)" in best.patch


def test_one_parameter_in_two_groups_is_written_in_the_singular():
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError) as raised, cnnprobe.record(model):
        optimizer = torch.optim.SGD([model.weight], lr=0.1)
        optimizer.add_param_group({"params": [model.weight]})
    note = raised.value.__notes__[0]
    assert "has 1 parameter, of which 1 is in group 0" in note
    assert "takes groups of 1 parameter)" in note
