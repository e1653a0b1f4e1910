"""Loops that are right in ways that look wrong: a monitor around them says nothing, and still finds
the same loop with its fault.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import cnnprobe


def rules(monitor):
    return {finding.rule for finding in monitor.findings}


def adversarial(*, cleared, to_none=True, steps=6):
    """The usual loop of a GAN, a monitor around each of its models."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    first, second = (torch.optim.Adam(model.parameters(), lr=1e-3) for model in (critic, generator))
    with cnnprobe.monitor(generator, second) as made, cnnprobe.monitor(critic, first) as judged:
        for _ in range(steps):
            fake = generator(torch.randn(16, 4))
            loss = (
                softplus(-critic(torch.randn(16, 8) + 1)).mean()
                + softplus(critic(fake.detach())).mean()
            )
            if cleared:
                first.zero_grad(set_to_none=to_none)
            loss.backward()
            first.step()
            if cleared:
                second.zero_grad(set_to_none=to_none)
            softplus(-critic(fake)).mean().backward()
            second.step()
    return rules(made), rules(judged)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_the_generator_leaves_in_a_critic_and_its_loop_clears_are_no_fault(to_none):
    assert (set(), set()) == adversarial(cleared=True, to_none=to_none)


def test_a_critic_whose_gradients_are_never_cleared_is_found():
    assert ({"no-zero-grad"}, {"no-zero-grad"}) == adversarial(cleared=False)


def accumulating(*, passes, cleared, to_none, clipped, steps=6):
    """A loop whose optimizer the monitor is not told of."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with cnnprobe.monitor(model) as monitor:
        for _ in range(steps):
            if cleared:
                optimizer.zero_grad(set_to_none=to_none)
            for _ in range(passes):
                cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 2).backward()
            if clipped:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    return rules(monitor)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("clipped", [True, False])
def test_without_an_optimizer_accumulation_and_gradients_set_to_zero_are_no_fault(
    passes, to_none, clipped
):
    assert set() == accumulating(passes=passes, cleared=True, to_none=to_none, clipped=clipped)


@pytest.mark.parametrize("clipped", [True, False])
def test_without_an_optimizer_gradients_that_are_never_cleared_are_found(clipped):
    assert {"no-zero-grad"} == accumulating(passes=1, cleared=False, to_none=True, clipped=clipped)


def test_the_closure_of_lbfgs_that_clears_nothing_is_found():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(8, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def closure():
        loss = cross_entropy(model(x), torch.arange(8) % 2)
        loss.backward()
        return loss

    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(4):
            optimizer.step(closure)
    assert {"no-zero-grad"} <= rules(monitor)


def test_an_inner_loop_on_weights_of_its_own_is_no_fault_and_gives_no_warning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(5):
            x = torch.rand(8, 1)
            weights = dict(model.named_parameters())
            inner = torch.autograd.grad(
                (model(x) - x.sin()).pow(2).mean(), list(weights.values()), create_graph=True
            )
            faster = {
                name: w - 0.01 * g for (name, w), g in zip(weights.items(), inner, strict=True)
            }
            outer = (torch.func.functional_call(model, faster, (x,)) - x.sin()).pow(2).mean()
            optimizer.zero_grad()
            outer.backward()
            optimizer.step()
    assert set() == rules(monitor)
