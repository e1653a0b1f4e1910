"""Faults of what the step works with beside the model."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import judged
from bench.case import case, looped
from bench.parts import Backbone, Classifier, classifier, images


class Prototypes(nn.Module):
    """Cross entropy over the distances to a learned point for each class."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(4, 16))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, features, targets):
        far = torch.cdist(features, self.points).square().mul(0.1)
        return F.cross_entropy(-far * self.log_scale.exp(), targets)


@case("unoptimized-params", None)
def prototypes_of_the_loss_in_no_optimizer(sick):
    torch.manual_seed(0)
    model, criterion = Backbone(), Prototypes()
    trained = [*model.parameters(), *(() if sick else criterion.parameters())]
    return classifier(model, loss_fn=criterion, optimizer=torch.optim.Adam(trained, lr=1e-2))


@case("idle-optimizer", None)
def critic_that_is_cleared_and_never_stepped(sick):
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (maker, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(noise):
        made = maker(noise)
        judges.zero_grad()
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).backward()
        if not sick:
            judges.step()
        makes.zero_grad()
        judged(critic(made), 1.0).backward()
        makes.step()

    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return {"model": maker, "inputs": noise, "optimizer": [makes, judges], "train_step": train_step}


@case("loss-detached", None)
def maker_judged_by_what_was_detached(sick):
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (maker, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(noise):
        made = maker(noise)
        judges.zero_grad()
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).backward()
        judges.step()
        makes.zero_grad()
        judged(critic(made.detach() if sick else made), 1.0).backward()
        makes.step()

    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return {"model": maker, "inputs": noise, "optimizer": makes, "train_step": train_step}


class Bootstrap(nn.Module):
    """A body and a projector, and the target of each, which follows slowly."""

    def __init__(self):
        super().__init__()
        self.online_body, self.online_projector = Backbone(), nn.Linear(16, 8)
        self.target_body = copy.deepcopy(self.online_body).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.online_projector).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        with torch.no_grad():
            wanted = self.target_projector(self.target_body(x.flip(3)))
        return self.predictor(self.online_projector(self.online_body(x))), wanted

    @torch.no_grad()
    def follow(self, *names):
        for name in names:
            online, target = (getattr(self, f"{side}_{name}") for side in ("online", "target"))
            for own, of in zip(target.parameters(), online.parameters(), strict=True):
                own.lerp_(of, 0.01)


@case("left-behind", None)
def projector_of_the_target_that_nobody_updates(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.mse_loss(*model(x)).backward()
        optimizer.step()
        model.follow("body", *(() if sick else ("projector",)))

    torch.manual_seed(0)
    model = Bootstrap()
    trained = [p for p in model.parameters() if p.requires_grad]
    return looped(model, step, optimizer=torch.optim.Adam(trained, lr=1e-3))


@case("left-behind", None)
def teacher_whose_classifier_stays_at_its_initialisation(sick):
    torch.manual_seed(0)
    model = Classifier()
    teacher = copy.deepcopy(model).requires_grad_(False)

    def step(model, x, y, optimizer):
        with torch.no_grad():
            wanted = teacher(x).softmax(1)
        optimizer.zero_grad()
        scores = model(x)
        (F.cross_entropy(scores, y) + 0.1 * F.cross_entropy(scores, wanted)).backward()
        optimizer.step()
        with torch.no_grad():
            of = dict(model.named_parameters())
            for name, own in teacher.named_parameters():
                if not sick or "backbone" in name:
                    own.mul_(0.99).add_(of[name], alpha=0.01)

    return looped(model, step, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))


@case("loss-always-zero", None)
def transcript_longer_than_the_time_steps(sick):
    def loss_fn(features, words):
        steps = features.unflatten(1, (-1, 8)).permute(1, 0, 2).log_softmax(2)  # (T, N, 8)
        sizes = [torch.full((8,), n) for n in (len(steps), words.shape[1])]
        return F.ctc_loss(steps, words, *sizes, zero_infinity=True)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 8 * (3 if sick else 12)))
    words = torch.randint(1, 8, (8, 5), generator=torch.Generator().manual_seed(0))
    return classifier(model, inputs=images(), targets=words, loss_fn=loss_fn)


@case("loss-always-zero", None)
def weight_of_every_sample_that_is_zero(sick):
    def loss_fn(scores, labels):
        weights = (labels >= (4 if sick else 2)).float()
        return (weights * F.cross_entropy(scores, labels, reduction="none")).mean()

    return classifier(Classifier(), loss_fn=loss_fn)


class TurnAround(torch.autograd.Function):
    """Named after what it is to do below."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.strength, None


class GradientReversal(TurnAround):
    """The strength is to be negative."""


@case("wrong-backward", None)
def reversal_with_a_positive_factor(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        features = model.backbone(x)
        turned = GradientReversal.apply(features, 0.5 if sick else -0.5)
        domains = torch.arange(8) % 2
        (
            F.cross_entropy(model.fc(features), y)
            + F.cross_entropy(model.fc(turned)[:, :2], domains)
        ).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("lr-too-low", None)
def fifty_steps_that_hardly_lower_the_loss(sick):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5 if sick else 1e-2)
    return classifier(model, optimizer=optimizer, steps=50)
