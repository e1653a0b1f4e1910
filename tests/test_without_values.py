"""Models that are partly or wholly on meta, or whose first forward has yet to shape them."""

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import cnnprobe
from cnnprobe import testing
from cnnprobe.cli import main
from cnnprobe.errors import TargetError


class Net(nn.Module):
    def __init__(self, spare):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)
        self.spare = spare

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2, device="meta"))


SPARES = {
    "layer on meta": lambda: nn.Linear(4, 3, device="meta"),
    "buffer on meta": Counter,
    "lazy layer": lambda: nn.LazyLinear(3),
    "lazy norm": nn.LazyBatchNorm1d,
}


def batch(device="cpu"):
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, 6).to(device), torch.tensor([0, 1]).to(device)


def made(spare="layer on meta"):
    torch.manual_seed(0)
    return Net(SPARES[spare]())


def stepper(model):
    known = [p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)]
    return torch.optim.SGD(known, lr=0.1)


def watch(model, x, y):
    optimizer = stepper(model)
    with cnnprobe.monitor(model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def keep(model, x):
    with cnnprobe.record(model):
        model(x)


VERBS = {
    "probe": lambda m, x, _: cnnprobe.probe(m, x),
    "record": lambda m, x, _: keep(m, x),
    "autograd_graph": lambda m, x, _: cnnprobe.autograd_graph(m(x), m),
    "compare": lambda m, x, _: cnnprobe.compare(m, m, x),
    "refactor": lambda m, x, _: cnnprobe.refactor(m, x),
    "diagnose": lambda m, x, y: cnnprobe.diagnose(
        m, x, y, loss_fn=F.cross_entropy, optimizer=stepper(m)
    ),
    "monitor": watch,
    "assert_finite": lambda m, x, y: testing.assert_finite(m, x, y, loss_fn=F.cross_entropy),
    "assert_deterministic": lambda m, x, _: testing.assert_deterministic(m, x),
    "assert_eval_is_stable": lambda m, x, _: testing.assert_eval_is_stable(m, x),
    "assert_batch_independent": lambda m, x, _: testing.assert_batch_independent(m, x),
    "assert_overfits_batch": lambda m, x, y: testing.assert_overfits_batch(
        m, x, y, loss_fn=F.cross_entropy, steps=2, to=9.0
    ),
    "assert_shapes": lambda m, x, _: testing.assert_shapes(m, x, {"fc": (2, 2)}),
    "architecture_text": lambda m, x, _: testing.architecture_text(m, x),
}
# What a forward would change for good, or what is made of every shape, is refused for lazy models.
REFUSE_LAZY = {"compare", "refactor", "diagnose"} | {
    name for name in VERBS if name.startswith("assert_") and name != "assert_shapes"
}
READ_VALUES = {"diagnose", "monitor"} | {name for name in REFUSE_LAZY if name.startswith("assert_")}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("spare", SPARES)
def test_part_without_values_that_is_not_called_is_no_obstacle_or_is_refused(verb, spare):
    if "lazy" in spare and verb in REFUSE_LAZY:
        with pytest.raises(TargetError) as caught:
            VERBS[verb](made(spare), *batch())
        assert caught.value.what and caught.value.where and caught.value.fix
        return
    VERBS[verb](made(spare), *batch())


@pytest.mark.parametrize("verb", VERBS)
def test_model_on_meta_is_looked_at_as_far_as_shapes_tell_and_else_refused(verb):
    model, given = made().to("meta"), batch("meta")
    if verb not in READ_VALUES:
        VERBS[verb](model, *given)
        return
    with pytest.raises(TargetError, match="has no values: it is on the meta device") as caught:
        VERBS[verb](model, *given)
    assert caught.value.where and caught.value.fix


def test_diagnose_of_a_model_partly_on_meta_trains_it_and_leaves_it_as_it_was():
    model, (x, y) = made(), batch()
    before = [p.clone() for p in model.conv.parameters()]
    report = cnnprobe.diagnose(model, x, y, loss_fn=F.cross_entropy, optimizer=stepper(model))
    assert report.trace.failure is None
    assert all(map(torch.equal, before, model.conv.parameters()))


def test_diagnose_explains_a_layer_on_meta_that_is_called():
    model, (x, y) = made(), batch()
    model.fc.to("meta")
    report = cnnprobe.diagnose(model, x, y, loss_fn=F.cross_entropy)
    assert ("device-mismatch", "fc") == (report.explanation.diagnosis, report.explanation.module)


def test_compare_says_in_one_sentence_what_has_no_values():
    model, (x, _) = made(), batch()
    comparison = cnnprobe.compare(model, model, x)
    (found,) = [d for d in comparison.differences if d.level == "state_dict"]
    assert (
        "2 parameters and buffers could not be compared: there are no values on the meta device "
        "(spare.weight, spare.bias)" == found.message
    )
    assert comparison.levels["numbers"]


def test_compare_of_inputs_on_meta_says_what_the_forward_raises():
    comparison = cnnprobe.compare(made(), made(), batch("meta")[0])
    assert not comparison.equivalent


def test_assert_parameters_change_names_the_parameters_on_meta_as_unchanged():
    model, (x, y) = made(), batch()
    with pytest.raises(AssertionError, match=r"'spare\.weight'"):
        testing.assert_parameters_change(
            model, x, y, loss_fn=F.cross_entropy, optimizer=stepper(model)
        )


def test_command_refuses_a_model_on_meta_unless_it_is_told_to(tmp_path, monkeypatch):
    (tmp_path / "on_meta.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Linear(4, 2, device='meta')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(main, ["probe", "on_meta:make", "--input", "2,4"])
    assert 3 == done.exit_code
    assert "the model has no values for 'weight' and 1 more: they are on the meta device" in (
        done.stderr
    )
    told = CliRunner().invoke(main, ["probe", "on_meta:make", "--input", "2,4", "--device", "meta"])
    assert 0 == told.exit_code


def test_diagnose_of_a_model_on_meta_blames_no_layer_that_a_kernel_of_meta_let_pass():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).to("meta")
    found = cnnprobe.probe(model, torch.randn(2, 3, 8, 8)).explanation
    assert ("device-mismatch", "") == (found.diagnosis, found.module)
    assert "the input is on cpu, the model on meta: meta tensors have no values" == found.message
    titles = [repair.title for repair in found.repairs]
    assert any("x.to('meta')" in title for title in titles), titles
    assert any("to_empty" in title for title in titles), titles
