"""Loops that are right in ways that look wrong give no finding on the way of their losses."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.support.loss_loops import Loop

HEALTHY = {}


def healthy(step):
    HEALTHY[step.__name__] = step
    return step


@pytest.mark.parametrize("name", HEALTHY)
def test_a_loop_that_is_right_gives_no_finding_on_the_way_of_its_losses(name):
    assert [] == [(f.rule, f.message) for f in Loop(HEALTHY[name]).find()]


@healthy
def metrics_beside(loop, x, y):
    out = loop.model(x)
    loss = F.cross_entropy(out, y)
    loop.train(loss)
    loop.log.append((out.argmax(1) == y).float().mean().item())
    loop.log.append(f"{F.l1_loss(out, loop.real):.3f}")  # with a graph, which is but a waste
    with torch.no_grad():
        loop.log.append(F.mse_loss(loop.model(x), loop.real).item())
    loop.log.append(loss.item())


@healthy
def running_mean_of_losses(loop, x, y):
    loss = F.cross_entropy(loop.model(x), y)
    loop.log.append(0.9 * (loop.log[-1] if loop.log else 0.0) + 0.1 * loss.item())
    loop.train(loss)


@healthy
def teacher_by_moving_average(loop, x, y):
    out = loop.model(x)
    with torch.no_grad():
        target = loop.teacher(x)
    loop.train(F.cross_entropy(out, y) + F.mse_loss(out, target))
    with torch.no_grad():
        for p, q in zip(loop.model.parameters(), loop.teacher.parameters(), strict=True):
            q.lerp_(p, 0.1)


@healthy
def distillation(loop, x, y):
    out = loop.model(x)
    soft = F.kl_div(F.log_softmax(out, 1), F.softmax(loop.teacher(x), 1), reduction="batchmean")
    loop.train(0.5 * F.cross_entropy(out, y) + 0.5 * soft)


@healthy
def two_views_with_stopped_gradients(loop, x, y):
    a, b = loop.model(x), loop.model(x + 0.1)
    loop.train(
        -0.5 * F.cosine_similarity(a, b.detach()).mean()
        - 0.5 * F.cosine_similarity(b, a.detach()).mean()
    )


@healthy
def target_of_the_next_state(loop, x, y):
    value = loop.model(x).gather(1, y[:, None]).squeeze(1)
    following = loop.model(x + 1).max(1).values.detach()
    loop.train(F.smooth_l1_loss(value, 1 + 0.9 * following))


@healthy
def adversarial(loop, x, y):
    made = loop.model(x)
    ones, zeros = torch.ones(12), torch.zeros(12)
    bce = F.binary_cross_entropy_with_logits
    apart = bce(loop.judge(loop.real), ones) + bce(loop.judge(made.detach()), zeros)
    loop.train(apart, loop.other)
    loop.train(F.cross_entropy(made, y) + 0.1 * bce(loop.judge(made), ones))


@healthy
def relativistic(loop, x, y):
    made = loop.model(x)
    loop.train(F.softplus(loop.judge(made.detach()) - loop.judge(loop.real)).mean(), loop.other)
    loop.train(F.softplus(loop.judge(loop.real).detach() - loop.judge(made)).mean())


@healthy
def penalty_on_gradients(loop, x, y):
    made = loop.model(x)
    mixed = (0.5 * made.detach() + 0.5 * loop.real).requires_grad_()
    (slope,) = torch.autograd.grad(loop.judge(mixed).sum(), mixed, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().mean()
    loop.train(
        loop.judge(made.detach()).mean() - loop.judge(loop.real).mean() + 10 * penalty, loop.other
    )
    loop.train(F.cross_entropy(made, y) - loop.judge(made).mean())


@healthy
def one_backward_for_two_optimizers(loop, x, y):
    out = loop.model(x)
    loss = F.cross_entropy(out, y) + loop.judge(loop.real).square().mean()
    loop.optimizer.zero_grad()
    loop.other.zero_grad()
    loss.backward()
    loop.optimizer.step()
    loop.other.step()


@healthy
def penalty_on_all_weights_in_the_step_of_one_optimizer(loop, x, y):
    weights = [*loop.model.parameters(), *loop.critic.parameters()]
    penalty = sum(p.square().sum() for p in weights)
    loop.train(F.cross_entropy(loop.model(x), y) + 1e-3 * penalty)


@healthy
def frozen_network_of_features(loop, x, y):
    for p in loop.critic.parameters():
        p.requires_grad_(False)
    out = loop.model(x)
    features = F.l1_loss(loop.critic(out), loop.critic(loop.real))
    loop.train(F.cross_entropy(out, y) + features)


@healthy
def quantised_with_a_straight_through_gradient(loop, x, y):
    z = loop.model(x)
    q = torch.where(z > 0, loop.prior + 0.5, loop.prior - 0.5)
    out = z + (q - z).detach()
    commitment = 0.25 * F.mse_loss(z, q.detach())
    loop.train(F.cross_entropy(out, y) + F.mse_loss(q, z.detach()) + commitment)


@healthy
def evaluation_in_the_step(loop, x, y):
    loop.train(F.cross_entropy(loop.model(x[:6]), y[:6]))
    loop.model.eval()
    with torch.no_grad():
        loop.log.append(float(F.cross_entropy(loop.model(x[6:]), y[6:])))
    loop.model.train()


@healthy
def one_function_for_training_and_evaluation(loop, x, y):
    def measure(a, b):
        return F.cross_entropy(loop.model(a), b)

    loop.train(measure(x[:6], y[:6]))
    loop.log.append(measure(x[6:], y[6:]).item())


@healthy
def policy_gradient_with_a_baseline(loop, x, y):
    chosen = torch.distributions.Categorical(logits=loop.model(x))
    action = chosen.sample()
    value = loop.judge(loop.real)
    reward = (action == y).float()
    advantage = reward - value.detach()
    loss = -(chosen.log_prob(action) * advantage).mean() - 0.01 * chosen.entropy().mean()
    loss = loss + 0.5 * F.mse_loss(value, reward)
    loop.optimizer.zero_grad()
    loop.other.zero_grad()
    loss.backward()
    loop.optimizer.step()
    loop.other.step()


@healthy
def entropy_of_a_fixed_prior(loop, x, y):
    prior = torch.full((4,), 0.25)
    out = loop.model(x)
    entropy = (prior * prior.log()).sum()
    cross = -(prior * F.log_softmax(out, 1)).sum(1).mean()
    loop.train(F.cross_entropy(out, y) + 0.1 * (entropy + cross))


@healthy
def log_sum_exp_of_ones_own(loop, x, y):
    out = loop.model(x)
    highest = out.max(1).values.detach()
    total = (out - highest[:, None]).exp().sum(1).log() + highest
    loop.train((total - out.gather(1, y[:, None]).squeeze(1)).mean())


@healthy
def value_shown_in_place_of_another(loop, x, y):
    out = loop.model(x)
    surrogate = F.mse_loss(out, loop.real)
    loop.train(F.cross_entropy(out, y) + (surrogate - surrogate.detach()))


@healthy
def terms_weighed_by_their_own_size(loop, x, y):
    out = loop.model(x)
    first, second = F.cross_entropy(out, y), F.mse_loss(out, loop.real)
    loop.train(first / first.item() + second * (first.detach() / second.detach()))


@healthy
def weight_from_two_gradients(loop, x, y):
    made = loop.model(x)
    first, second = F.mse_loss(made, loop.real), -loop.judge(made).mean()
    last = loop.model[2].weight
    (a,) = torch.autograd.grad(first, last, retain_graph=True)
    (b,) = torch.autograd.grad(second, last, retain_graph=True)
    loop.train(first + (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach() * second)


@healthy
def losses_weighed_by_learned_uncertainty(loop, x, y):
    out = loop.model(x)
    terms = torch.stack([F.cross_entropy(out, y), F.mse_loss(out, loop.real)])
    loop.train(((-loop.prior[:2]).exp() * terms + loop.prior[:2]).sum())


@healthy
def gradients_accumulated(loop, x, y):
    loop.optimizer.zero_grad()
    for a, b in zip(x.split(4), y.split(4), strict=True):
        loss = F.cross_entropy(loop.model(a), b) / 3
        loss.backward()
        loop.log.append(loss.item())
    loop.optimizer.step()


@healthy
def losses_summed_over_micro_batches(loop, x, y):
    losses = []
    for a, b in zip(x.split(4), y.split(4), strict=True):
        losses.append(F.cross_entropy(loop.model(a), b))
    loop.train(sum(losses) / len(losses))


@healthy
def inner_step_by_autograd(loop, x, y):
    weights = dict(loop.model.named_parameters())
    inner = F.cross_entropy(torch.func.functional_call(loop.model, weights, (x[:6],)), y[:6])
    slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    faster = {n: p - 0.1 * g for (n, p), g in zip(weights.items(), slopes, strict=True)}
    loop.train(F.cross_entropy(torch.func.functional_call(loop.model, faster, (x[6:],)), y[6:]))


@healthy
def attacked_inputs(loop, x, y):
    near = x.clone()
    for _ in range(2):
        near = near.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(loop.model(near), y), near)
        near = near + 0.1 * slope.sign()
    loop.train(F.cross_entropy(loop.model(near.detach()), y))


@healthy
def sharpness_aware(loop, x, y):
    loop.optimizer.zero_grad()
    F.cross_entropy(loop.model(x), y).backward()
    moved = [(p, 0.01 * p.grad) for p in loop.model.parameters()]
    with torch.no_grad():
        for p, by in moved:
            p.add_(by)
    loop.optimizer.zero_grad()
    F.cross_entropy(loop.model(x), y).backward()
    with torch.no_grad():
        for p, by in moved:
            p.sub_(by)
    loop.optimizer.step()


@healthy
def least_of_two_orders(loop, x, y):
    out = loop.model(x)
    losses = [F.mse_loss(out, target) for target in (loop.real, loop.real.flip(1))]
    loop.train(min(losses))


@healthy
def batches_that_are_skipped(loop, x, y):
    for a, b in zip(x.split(6), y.split(6), strict=True):
        loss = F.cross_entropy(loop.model(a), b)
        if not torch.isfinite(loss) or loss > 1e3:
            continue
        loop.train(loss)


@healthy
def losses_returned_together(loop, x, y):
    out = loop.model(x)
    losses = {"main": F.cross_entropy(out, y), "aside": F.mse_loss(out, loop.real)}
    loop.train(losses["main"])
    return losses


@healthy
def losses_collected_over_two_steps(loop, x, y):
    loop.kept.append(F.cross_entropy(loop.model(x), y))
    if len(loop.kept) == 2:
        loop.train(sum(loop.kept))
        loop.kept.clear()


@healthy
def clipped_policy(loop, x, y):
    chosen = F.log_softmax(loop.model(x), 1).gather(1, y[:, None])
    ratio = (chosen - chosen.detach()).exp()
    advantage = torch.linspace(-1, 1, 12)[:, None]
    loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    loop.train(loss)


@healthy
def flooded(loop, x, y):
    loss = F.cross_entropy(loop.model(x), y)
    loop.train((loss - 0.1).abs() + 0.1)


@healthy
def truncated_backward_through_time(loop, x, y):
    state, loss = torch.zeros(12, 4), 0
    for t in range(3):
        state = 0.5 * state + loop.model(x + t)
        loss = loss + F.cross_entropy(state, y)
    loop.train(loss)
    loop.kept[:] = [state.detach()]


@healthy
def scaled_for_half_precision(loop, x, y):
    scaler = torch.amp.GradScaler("cpu")
    out = loop.model(x)
    loss = F.cross_entropy(out, y) + 0.1 * F.mse_loss(out, loop.real)
    loop.optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(loop.optimizer)
    scaler.update()


@healthy
def closure_of_lbfgs(loop, x, y):
    if not loop.kept:
        loop.kept.append(torch.optim.LBFGS(loop.model.parameters(), lr=0.1, max_iter=2))
    optimizer = loop.kept[0]

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(loop.model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)


@healthy
def gradients_of_a_function(loop, x, y):
    weights = {name: p.detach() for name, p in loop.model.named_parameters()}

    def measure(given):
        return F.cross_entropy(torch.func.functional_call(loop.model, given, (x,)), y)

    slopes, _ = torch.func.grad_and_value(measure)(weights)
    loop.log.append(sum(float(slope.norm()) for slope in slopes.values()))
    loop.train(F.cross_entropy(loop.model(x), y))


@healthy
def second_network_trained_on_features(loop, x, y):
    features = copy.copy(loop.model(x))
    loop.train(F.cross_entropy(features, y))
    loop.train(F.cross_entropy(loop.critic(features.detach()), y), loop.other)
