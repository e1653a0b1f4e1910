"""Which losses, and which terms of a loss, reach backward: faults in the loop are found."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.loss_loops import Loop

SICK = {}


def sick(rule, *words):
    def keep(step):
        SICK[step.__name__] = rule, words, step
        return step

    return keep


@pytest.mark.parametrize("name", SICK)
def test_a_loss_that_does_not_reach_backward_is_found(name):
    rule, words, step = SICK[name]
    (found,) = Loop(step).find()
    assert (rule, []) == (found.rule, [word for word in words if word not in found.message])


@sick("detached-term", "F.mse_loss", "cuts it")
def term_detached(loop, x, y):
    out = loop.model(x)
    loop.train(F.cross_entropy(out, y) + 0.3 * F.mse_loss(out, loop.real).detach())


@sick("detached-term", "F.mse_loss", ".data")
def term_by_data_in_place(loop, x, y):
    out = loop.model(x)
    loss = F.cross_entropy(out, y)
    loss += 2 * F.mse_loss(out, loop.real).data
    loop.train(loss)


@sick("detached-term", "F.mse_loss", "item()")
def term_as_a_number(loop, x, y):
    out = loop.model(x)
    aside = F.mse_loss(out, loop.real).item()
    loop.train(F.cross_entropy(out, y) + 0.3 * aside)


@sick("detached-term", "F.mse_loss", "item()")
def term_as_a_new_tensor(loop, x, y):
    out = loop.model(x)
    aside = torch.tensor(float(F.mse_loss(out, loop.real)))
    loop.train(torch.stack([F.cross_entropy(out, y), aside]).sum())


@sick("detached-term", "F.mse_loss")
def term_of_a_detached_output(loop, x, y):
    out = loop.model(x)
    loop.train(F.cross_entropy(out, y) + F.mse_loss(out.detach(), loop.real))


@sick("detached-term", "F.triplet_margin_loss", "nothing that it compares")
def term_by_numpy(loop, x, y):
    out = loop.model(x)
    kept = torch.from_numpy(out.data.numpy())
    far = F.triplet_margin_loss(kept, kept.roll(1, 0), kept.flip(0), margin=5.0)
    loop.train(F.cross_entropy(out, y) + 0.1 * far)


@sick("detached-term", "F.mse_loss", "without gradient")
def term_under_no_grad(loop, x, y):
    out = loop.model(x)
    with torch.no_grad():
        aside = F.mse_loss(out, loop.real)
    loop.train(F.cross_entropy(out, y) + aside)


@sick("detached-term")
def penalty_on_the_data_of_the_weights(loop, x, y):
    penalty = sum(p.data.square().sum() for p in loop.model.parameters())
    loop.train(F.cross_entropy(loop.model(x), y) + 0.01 * penalty)


@sick("idle-term", "has no path to the parameters of model")
def judged_by_real_data(loop, x, y):
    made = loop.model(x)
    apart = loop.judge(made.detach()).mean() - loop.judge(loop.real).mean()
    loop.train(apart, loop.other)
    loop.train(F.cross_entropy(made, y) - 0.1 * loop.judge(loop.real).mean())


@sick("unused-loss", "F.cross_entropy computes is never used")
def loss_overwritten(loop, x, y):
    out = loop.model(x)
    loss = F.cross_entropy(out, y)
    loss = 0.1 * out.diff(dim=1).abs().mean()
    loop.train(loss)


@sick("unused-loss", "Tensor.mean computes is never used")
def own_loss_forgotten(loop, x, y):
    out = loop.model(x)
    (out - loop.real).square().mean()
    loop.train(F.cross_entropy(out, y))


@sick("unused-loss", "computes 3 losses in a step, and backward goes through 1")
def backward_after_the_loop(loop, x, y):
    for a, b in zip(x.split(4), y.split(4), strict=True):
        loss = F.cross_entropy(loop.model(a), b)
        loop.log.append(loss.item())
    loop.train(loss)
