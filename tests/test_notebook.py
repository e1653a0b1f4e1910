"""The decorator: records the user's own calls, and a decorated model is otherwise as it would be
without.
"""

import contextlib
import copy
import inspect
import io
import pickle
import random
import typing

import pytest
import torch
from torch import nn

import cnnprobe
from tests.support.models import Broken, Small, images


@cnnprobe.probed
class Watched(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Heir(Watched):
    def __init__(self):
        super().__init__(width=6)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * 2


def test_decorated_class_records_each_call_and_runs_it_once():
    model = Heir()
    output = model(images())
    assert 1 == model.calls
    assert (
        (2, 6, 6, 6)
        == tuple(output.shape)
        == cnnprobe.last_report(model).trace[""].outputs[0].shape
    )


def test_latest_call_replaces_the_one_before():
    model = Watched()
    model(images(1))
    model(images(2))
    assert 2 == cnnprobe.last_report(model).trace["conv"].inputs[0].shape[0]


def test_output_keeps_its_graph():
    model = Watched()
    model(images()).sum().backward()
    assert model.conv.weight.grad is not None


def test_nothing_is_printed(capfd):
    Watched()(images())
    assert ("", "") == capfd.readouterr()


def test_crash_keeps_its_type_and_leaves_a_report():
    model = cnnprobe.probed(Broken())
    with pytest.raises(RuntimeError, match="to have 5 channels"):
        model(images())
    assert "block.2" == cnnprobe.last_report(model).trace.failure.module


def test_interrupt_leaves_what_was_recorded_and_no_mode_behind():
    class Interrupted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.conv(x)
            raise KeyboardInterrupt

    model = cnnprobe.probed(Interrupted())
    depth = torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt):
        model(images())
    assert depth == torch._C._len_torch_function_stack()
    assert [False, True] == [call.completed for call in cnnprobe.last_report(model).trace.calls]


def test_decorated_model_is_the_same_object_of_the_same_kind():
    model = Small()
    decorated = cnnprobe.probed(model)
    assert decorated is model
    assert isinstance(decorated, Small)
    assert "Small" == type(decorated).__name__
    decorated(images())
    assert "Small" == cnnprobe.last_report(decorated).trace.model


DECORATED = pytest.mark.parametrize(
    "make", [Watched, lambda: cnnprobe.probed(Small())], ids=["class", "model"]
)


def through_a_file(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@DECORATED
@pytest.mark.parametrize(
    "twin",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy, through_a_file],
    ids=["pickle", "deepcopy", "copy", "torch.save"],
)
def test_decorated_model_can_be_pickled_copied_and_saved(make, twin):
    model = make().eval()
    expected = model(images())
    other = twin(model)
    assert torch.equal(expected, other(images()))
    assert list(model.state_dict()) == list(other.state_dict())


@DECORATED
def test_state_of_a_decorated_model_is_that_of_an_ordinary_one(make):
    model, other = make(), make()
    model(images())
    other.load_state_dict(model.state_dict(), strict=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert list(vars(make())) == list(vars(model))  # a call leaves no attribute behind


def test_pickle_of_a_decorated_model_is_read_without_the_decorator():
    model = cnnprobe.probed(Small().eval())
    assert Small is type(pickle.loads(pickle.dumps(model)))


def test_decorated_class_keeps_its_name_signature_and_type_hints():
    class Plain(nn.Module):
        """What it says."""

        def __init__(self, width: int = 4):
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    before = [
        Plain.__name__,
        Plain.__qualname__,
        Plain.__module__,
        Plain.__doc__,
        inspect.signature(Plain),
        inspect.signature(Plain.forward),
    ]
    decorated = cnnprobe.probed(Plain)
    assert decorated is Plain
    after = [
        Plain.__name__,
        Plain.__qualname__,
        Plain.__module__,
        Plain.__doc__,
        inspect.signature(Plain),
        inspect.signature(Plain.forward),
    ]
    assert before == after
    assert {"x": torch.Tensor, "return": torch.Tensor} == typing.get_type_hints(Plain.forward)
    assert inspect.signature(nn.Module.__call__) == inspect.signature(Plain.__call__)


def test_heir_of_a_decorated_class_calls_its_super_and_is_recorded_once():
    model = Heir()
    assert isinstance(model, Watched)
    model(images())
    trace = cnnprobe.last_report(model).trace
    assert ("Heir", ["Heir", "conv"]) == (
        trace.model,
        [call.fqn or call.kind for call in trace.calls if call.fqn is not None],
    )


def test_decorated_model_inside_an_undecorated_one_is_recorded_by_itself():
    inner = Watched()
    nn.Sequential(nn.Identity(), inner)(images())
    assert "Watched" == cnnprobe.last_report(inner).trace.model


@DECORATED
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # the compiler's own, which differ with what was compiled before in the process
@pytest.mark.parametrize("how", ["torch.compile", "model.compile", "compiled, then decorated"])
def test_decorated_model_can_be_compiled(make, how):
    model = make().eval()
    expected = model(images())
    if how == "torch.compile":
        model = torch.compile(model, backend="eager", fullgraph=True)
    elif how == "model.compile":
        model.compile(backend="eager")
    else:
        model = cnnprobe.probed(torch.compile(model, backend="eager"))
    with torch.no_grad():
        assert torch.equal(expected, model(images()))
    torch._dynamo.reset()


@DECORATED
@pytest.mark.parametrize(
    "transform",
    [
        torch.fx.symbolic_trace,
        lambda m: torch.export.export(m, (images(),)).module(),
        lambda m: (
            lambda x: torch.func.functional_call(
                m, dict(m.named_parameters()) | dict(m.named_buffers()), x
            )
        ),
        lambda m: torch.func.vmap(lambda x: m(x[None])[0]),
    ],
    ids=["fx", "export", "functional_call", "vmap"],
)
def test_decorated_model_goes_through_what_transforms_models(make, transform):
    model = make().eval()
    with torch.no_grad():
        assert torch.allclose(model(images()), transform(model)(images()), rtol=1e-6, atol=1e-6)


def test_decorating_what_is_no_model_says_so():
    with pytest.raises(cnnprobe.ProbeError, match="neither a model class nor a model"):
        cnnprobe.probed(3)


def test_report_that_is_not_there_says_how_to_get_one():
    with pytest.raises(cnnprobe.ProbeError, match="no report of this model"):
        cnnprobe.last_report(Small())


def test_report_shows_itself_in_a_notebook():
    bundle = cnnprobe.probe(Small(), images())._repr_mimebundle_()
    assert {"text/plain", "text/html"} == set(bundle)
    assert "<table" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


def test_every_third_call_is_recorded():
    model = cnnprobe.probed(Small().eval(), every=3)
    seen = []
    for n in range(1, 8):
        model(images(n))
        seen.append(cnnprobe.last_report(model).trace[""].inputs[0].shape[0])
    assert [1, 1, 1, 4, 4, 4, 7] == seen


def test_call_that_is_not_recorded_makes_no_recorder(monkeypatch):
    made = []
    monkeypatch.setattr(
        "cnnprobe.notebook.record", lambda model: made.append(model) or cnnprobe.record(model)
    )
    model = cnnprobe.probed(Small().eval(), every=5)
    for _ in range(10):
        model(images())
    assert 2 == len(made)


def test_sample_records_about_that_fraction_and_leaves_the_random_numbers_alone():
    @cnnprobe.probed(sample=0.5)
    class Sampled(nn.Identity):
        pass

    model = Sampled()
    random.seed(0)
    expected = random.random()
    random.seed(0)
    recorded = 0
    for n in range(1, 201):
        model(torch.ones(n, 1))
        with contextlib.suppress(cnnprobe.ProbeError):
            recorded += n == cnnprobe.last_report(model).trace[""].inputs[0].shape[0]
    assert expected == random.random()
    assert 60 < recorded < 140  # of 200 fair coins; beyond is 5.6 standard deviations away


@pytest.mark.parametrize("options", [{"every": 0}, {"sample": 0.0}, {"sample": 1.5}])
def test_options_that_would_record_nothing_are_refused(options):
    with pytest.raises(cnnprobe.ProbeError, match="record no call"):
        cnnprobe.probed(Small(), **options)


@pytest.fixture(scope="module")
def interactive_shell():
    pytest.importorskip("IPython", reason="NOT TESTED: the magics need IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_line_magic("load_ext", "cnnprobe")
    return shell


@pytest.fixture
def shell(interactive_shell):
    interactive_shell.user_ns.update(model=Small().eval(), broken=Broken(), x=images(), torch=torch)
    return interactive_shell


def test_line_magic_probes_the_call_that_it_is_given(shell):
    report = shell.run_line_magic("probe", "model(torch.cat([x, x]))")
    assert 4 == report.trace[""].inputs[0].shape[0]


def test_line_magic_explains_a_crash_instead_of_raising(shell):
    assert "block.2" == shell.run_line_magic("probe", "broken(x=x)").trace.failure.module


def test_cell_magic_runs_the_cell_once_and_reports_the_last_call_in_it(shell):
    report = shell.run_cell_magic(
        "probe", "model", "y = model(x)\nz = model(x[:1])\ncount = 1 + globals().get('count', 0)\n"
    )
    assert (1, 1, (1, 5)) == (
        report.trace[""].inputs[0].shape[0],
        shell.user_ns["count"],
        tuple(shell.user_ns["z"].shape),
    )
    assert report is cnnprobe.last_report(shell.user_ns["model"])


def test_cell_magic_shows_the_explanation_and_lets_the_exception_go_on(shell, capsys):
    with pytest.raises(RuntimeError, match="to have 5 channels"):
        shell.run_cell_magic("probe", "broken", "broken(x)")
    assert "block.2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "cell", "what"),
    [
        ("model", None, "does not call a model"), ("model(", None, "is not an expression"),
        ("print(1)", None, "not a model"),
        ("", "1", "no model was given"), ("model", "1", "did not call model"),
    ],
)  # fmt: skip
def test_magic_that_cannot_work_says_what_to_write(shell, line, cell, what):
    with pytest.raises(cnnprobe.ProbeError, match=what):
        shell.run_line_magic("probe", line) if cell is None else shell.run_cell_magic(
            "probe", line, cell
        )
