"""Each assertion passes on a healthy model, fails on the fault that it is for, and leaves the model
as it was.
"""

import contextlib
import re

import pytest
import torch
import torch.nn.functional as F
from test_neutrality import Rude, generators, state_of
from torch import nn

from cnnprobe import testing
from cnnprobe.errors import UsageError
from cnnprobe.testing.live_checks import CalledModels
from tests.support.asserted import message_of
from tests.support.models import Broken, Small, images

TARGETS = torch.tensor([0, 1])


class Altered(Small):
    """`Small` with its forward's result altered."""

    def __init__(self, alter):
        super().__init__()
        self.alter = alter

    def forward(self, x):
        return self.alter(super().forward(x))


def test_parameters_are_counted_by_hand():
    testing.assert_parameters(Small(), total=4 * 27 + 4 + 8 + 64 * 5 + 5, at_most=500)


def test_wrong_parameter_count_names_the_largest():
    text = message_of(testing.assert_parameters, Small(), total=446)
    assert "Small has 445 parameters, expected 446 (-1)" in text
    assert "'fc.weight' (5, 64) = 320" in text


def test_frozen_parameters_are_not_trainable():
    model = Small()
    model.fc.requires_grad_(requires_grad=False)
    testing.assert_parameters(model, total=445, trainable=120)
    assert "expected 445" in message_of(testing.assert_parameters, model, trainable=445)


def test_macs_and_memory_are_held_to_their_bounds():
    macs = 2 * (4 * 64 * 27 + 64 * 5)
    testing.assert_macs(Small(), images(), total=macs)
    assert f"takes {macs:,} multiply-accumulates, at most 5 allowed" in message_of(
        testing.assert_macs, Small(), images(), at_most=5
    )
    testing.assert_memory(Small(), images(), at_most="1 MiB")
    assert "at most 1,024 allowed" in message_of(
        testing.assert_memory, Small(), images(), at_most="1 KiB"
    )


def test_shapes_bind_symbols_across_rows():
    testing.assert_shapes(
        Small(), images(), {"conv": ("N", "D", "H", "W"), "pool": "N D H/2 W/2", "": ("N", 5)}
    )


@pytest.mark.parametrize(
    "shape",
    ["B 4 H W", "N, 4, H, W", "N ... W", "*batch 4 H W", "N channels=4 _ _", ("N", None, "...")],
    ids=["words", "commas", "dots", "rest", "comment", "tuple"],
)
def test_shape_is_read_as_jaxtyping_writes_it(shape):
    testing.assert_shapes(Small(), images(), {"conv": shape})


@pytest.mark.parametrize("shape", ["N 4 H/", "N f(H)", "* 4", "N ... *rest", "N H**2"])
def test_shape_that_cannot_be_read_is_an_error(shape):
    with pytest.raises(UsageError, match=r"is not a dim|more than one open place"):
        testing.assert_shapes(Small(), images(), {"conv": shape})


def test_names_of_several_dimensions_are_held_to():
    assert "*rest = (4, 8, 8), not (4, 4, 4)" in message_of(
        testing.assert_shapes, Small(), images(), {"conv": "N *rest", "pool": "N *rest"}
    )
    assert "4 dimensions, not 5 or more" in message_of(
        testing.assert_shapes, Small(), images(), {"conv": "N C a b c ..."}
    )


def test_every_output_and_every_call_has_its_shape():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x), self.act(x.flatten(1))

    testing.assert_shapes(Twice(), images(), {"": [("N", "C", "H", "W"), "N C*H*W"]})
    assert "'act' (ReLU) gives (2, 192)" in message_of(
        testing.assert_shapes, Twice(), images(), {"act": "N C H W"}
    )
    assert "2 outputs, not 3" in message_of(
        testing.assert_shapes, Twice(), images(), {"": [("N",), ("N",), ("N",)]}
    )


def test_wrong_shapes_are_all_listed():
    text = message_of(
        testing.assert_shapes, Small(), images(), {"conv": ("N", 4, "H/2", "W"), "fc": ("N", 7)}
    )
    assert "2 shapes differ" in text
    assert (
        "'conv' (Conv2d) gives (2, 4, 8, 8), expected (N, 4, H/2, W) by 'conv': H/2 = 4, not 8"
        in text
    )
    assert "'fc' (Linear) gives (2, 5)" in text


def test_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(UsageError, match="matches no called module"):
        testing.assert_shapes(Small(), images(), {"convolution": ("N",)})


def test_model_that_raises_is_reported_with_its_module():
    text = message_of(testing.assert_shapes, Broken(), images(), {"": ("N",)})
    assert "the forward pass raised RuntimeError" in text
    assert "module 'block.2' (Conv2d)" in text


def test_finite_names_the_first_operation_that_is_not():
    testing.assert_finite(Small(), images())
    text = message_of(testing.assert_finite, Altered(lambda y: (y - y.max()).log() * 2), images())
    assert "torch.Tensor.log in the forward of Altered" in text
    assert "the first of 2 operations" in text


def test_finite_finds_gradients_that_are_not():
    text = message_of(testing.assert_finite, Altered(lambda y: (y * 0).sqrt()), images())
    assert "gradients are not finite" in text
    assert "'fc.weight'" in text


def test_gradients_that_do_not_reach_are_named():
    testing.assert_gradients_reach(Small(), images())
    text = message_of(testing.assert_gradients_reach, Altered(lambda y: y.detach()), images())
    assert "6 of 6 trainable parameters without a gradient" in text
    assert "'conv.weight': no gradient" in text


def test_unused_layer_gets_no_gradient_unless_ignored():
    model = Small()
    model.extra = nn.Linear(2, 2)
    assert "'extra.weight': no gradient" in message_of(
        testing.assert_gradients_reach, model, images()
    )
    testing.assert_gradients_reach(model, images(), ignore=["extra.*"])


def test_parameters_outside_the_optimizer_are_named():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    testing.assert_parameters_change(
        model, images(), TARGETS, optimizer=optimizer, loss_fn=F.cross_entropy
    )
    partial = torch.optim.Adam(model.fc.parameters())
    text = message_of(
        testing.assert_parameters_change,
        model,
        images(),
        TARGETS,
        optimizer=partial,
        loss_fn=F.cross_entropy,
    )
    assert "'conv.weight': is not in the optimizer" in text
    assert {} == dict(partial.state)


def test_batch_leak_names_the_samples():
    testing.assert_batch_independent(Small(), images())
    text = message_of(testing.assert_batch_independent, Altered(lambda y: y - y.mean(0)), images())
    assert "changing sample 0 changes the output of sample 1" in text


def test_softmax_over_the_batch_is_a_leak():
    assert "changing sample 0" in message_of(
        testing.assert_batch_independent, Altered(lambda y: y.softmax(0)), images()
    )


def test_generator_of_its_own_is_not_deterministic():
    testing.assert_deterministic(Small(), images())
    generator = torch.Generator()
    assert "two runs from the same random state differ" in message_of(
        testing.assert_deterministic,
        Altered(lambda y: y + torch.rand(1, generator=generator)),
        images(),
    )


def test_dropout_in_eval_is_not_stable():
    testing.assert_eval_is_stable(Small(), images())
    assert "two runs in eval mode differ" in message_of(
        testing.assert_eval_is_stable, Altered(lambda y: F.dropout(y, 0.5)), images()
    )


def test_batch_can_be_learnt_by_heart_unless_the_gradient_is_cut():
    model = Small()
    model.drop = nn.Identity()
    testing.assert_overfits_batch(model, images(), TARGETS, loss_fn=F.cross_entropy, steps=150)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    model.fc.bias.requires_grad_()
    assert "after 20 steps on one batch the loss is" in message_of(
        testing.assert_overfits_batch,
        model,
        images(),
        TARGETS,
        loss_fn=F.cross_entropy,
        steps=20,
        to=0.01,
    )


def test_graph_that_grows_from_step_to_step_is_a_leak():
    model = Small()
    total = torch.zeros(())

    def leaking():
        nonlocal total
        total = total + model(images()).sum()

    def sound():
        nonlocal total
        total = total.detach() + model(images()).sum().item()

    testing.assert_no_graph_leak(sound)
    assert "the autograd graph that is kept alive grows by" in message_of(
        testing.assert_no_graph_leak, leaking
    )


def test_branch_that_depends_on_values_is_another_graph():
    class Branching(Small):
        def forward(self, x):
            y = super().forward(x)
            return y * 2 if x.mean() > 1 else y

    testing.assert_same_graph(Branching(), images(), images(4))
    text = message_of(testing.assert_same_graph, Branching(), images(), images() + 10)
    assert "second: torch.Tensor.mul in the forward of Branching" in text


def softmax_twice():
    return Altered(lambda y: y.softmax(1))


def test_health_is_every_rule_there_is():
    testing.assert_healthy(Small(), images(8), torch.arange(8) % 5, loss_fn=F.cross_entropy)
    text = message_of(
        testing.assert_healthy,
        softmax_twice(),
        images(8),
        torch.arange(8) % 5,
        loss_fn=F.cross_entropy,
    )
    assert "error softmax-before-ce (CP401)" in text
    ignored = {"softmax-before-ce": "on purpose"}
    testing.assert_healthy(
        softmax_twice(), images(8), torch.arange(8) % 5, loss_fn=F.cross_entropy, ignore=ignored
    )


def test_health_of_training_is_judged_with_an_optimizer():
    model = Small()
    frozen = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    text = message_of(
        testing.assert_healthy,
        model,
        images(8),
        torch.arange(8) % 5,
        loss_fn=F.cross_entropy,
        optimizer=frozen,
    )
    assert "unoptimized-params (CP304)" in text


def test_health_passes_over_what_is_milder_than_asked():
    model = Small()
    model.conv.bias.data.fill_(0.1)  # a bias before BatchNorm is redundant: worth knowing, no fault
    testing.assert_healthy(model, images(8))
    assert "info redundant-bias" in message_of(
        testing.assert_healthy, model, images(8), at_least="info"
    )
    with pytest.raises(UsageError, match="no severity 'warn'"):
        testing.assert_healthy(model, images(), at_least="warn")


@pytest.mark.parametrize(
    "check",
    [
        lambda m: testing.assert_healthy(
            m, images(), TARGETS, loss_fn=lambda y, t: y.square().mean()
        ),
        lambda m: testing.assert_finite(m, images()),
        lambda m: testing.assert_gradients_reach(m, images()),
        lambda m: testing.assert_batch_independent(m, images()),
        lambda m: testing.assert_deterministic(m, images()),
        lambda m: testing.assert_eval_is_stable(m, images()),
        lambda m: testing.assert_parameters_change(
            m, images(), optimizer=torch.optim.Adam(m.parameters())
        ),
        lambda m: testing.assert_overfits_batch(
            m, images(), TARGETS, loss_fn=lambda y, t: y.square().mean(), steps=2
        ),
    ],
    ids=["healthy", "finite", "gradients", "batch", "deterministic", "eval", "change", "overfit"],
)
@pytest.mark.parametrize("make", [Small, Rude], ids=["usual", "rude"])
def test_assertion_leaves_model_and_generators_as_they_were(check, make):
    model = make()
    before, rng = state_of(model), generators()
    with contextlib.suppress(AssertionError, RuntimeError):
        check(model)
    after = state_of(model)
    for name, module in before.items():
        for kind in ("class", "attributes", "hooks"):
            assert module[kind] == after[name][kind]
        assert {k: v[:4] for k, v in module["tensors"].items()} == {
            k: v[:4] for k, v in after[name]["tensors"].items()
        }
    assert rng == generators()


def test_watching_the_models_of_a_test_leaves_no_global_hook():
    with CalledModels():
        Small()(images())
    space = vars(torch.nn.modules.module)
    hooks = {n: v for n, v in space.items() if re.match(r"_global_.*_hooks", n)}
    assert {"_global_forward_pre_hooks", "_global_forward_hooks_with_kwargs"} <= hooks.keys()
    assert not any(hooks.values())
