"""Objectives that are more than a loss of outputs: moving targets, experts, margins, losses that
the model itself gives.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.parts import Backbone, Classifier, classifier, images, labels


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.gate, self.head = Backbone(), nn.Linear(16, 6), nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(6)
        )

    def forward(self, x):
        x = self.backbone(x)
        weights = self.gate(x).softmax(1)
        most, chosen = weights.max(1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mine = chosen == i
            if mine.any():
                out[mine] = expert(x[mine]) * most[mine, None]
        self.balance = 6 * (F.one_hot(chosen, 6).float().mean(0) * weights.mean(0)).sum()
        return self.head(x + out)


@design
def experts_of_which_some_get_no_sample_and_whose_balance_is_an_attribute():
    model = Experts()
    return classifier(model, loss_fn=lambda out, y: F.cross_entropy(out, y) + 0.01 * model.balance)


@design
def experts_forward_alone():
    return {"model": Experts(), "inputs": images()}


class Tasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.heads = (
            Backbone(),
            nn.ModuleDict({"kind": nn.Linear(16, 4), "age": nn.Linear(16, 1)}),
        )

    def forward(self, x, task="kind"):
        return self.heads[task](self.backbone(x))


@design
def one_head_of_a_dictionary():
    return {"model": Tasks(), "inputs": images()}


class Queue(nn.Module):
    """Momentum contrast: keys of earlier batches in a buffer, an encoder that follows the other."""

    def __init__(self):
        super().__init__()
        self.query = Classifier()
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.register_buffer(
            "keys",
            F.normalize(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), dim=1),
        )
        self.register_buffer("position", torch.zeros(1, dtype=torch.long))

    def forward(self, x, y):
        query = F.normalize(self.query(x), dim=1)
        with torch.no_grad():
            for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
                slow.mul_(0.99).add_(fast, alpha=0.01)
            key = F.normalize(self.key(y), dim=1)
        logits = (
            torch.cat([(query * key).sum(1, keepdim=True), query @ self.keys.clone().t()], 1) / 0.2
        )
        with torch.no_grad():
            at = int(self.position)
            self.keys[at : at + len(key)] = key
            self.position[0] = (at + len(key)) % 32
        return logits


@design
def queue_of_keys_that_the_forward_fills():
    model = Queue()
    optimizer = torch.optim.SGD(model.query.parameters(), lr=0.03, momentum=0.9)
    return classifier(
        model,
        inputs=(images(), images().flip(3)),
        targets=torch.zeros(8, dtype=torch.long),
        optimizer=optimizer,
        steps=20,
    )


class Denoiser(nn.Module):
    """Gives its own loss: noise of a random size is added, and predicted by a network whose last
    layer starts at zero.
    """

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        nn.init.zeros_(self.net[3].weight)

    def forward(self, x):
        noise, size = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
        return F.mse_loss(self.net((1 - size) * x + size * noise), noise)


@design
def denoiser_that_gives_its_own_loss():
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(x):
        loss = model(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": model, "inputs": images(), "optimizer": optimizer, "train_step": train_step}


@design
def denoiser_forward_alone():
    return {"model": Denoiser(), "inputs": images()}


@design
def image_network_before_frozen_features_in_the_loss():
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    ).requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    return classifier(
        model,
        targets=images().flip(3),
        loss_fn=lambda out, y: F.mse_loss(features(out), features(y)),
    )


@design
def frozen_features_in_eval_mode_before_a_trained_layer():
    model = Classifier()
    model.backbone.requires_grad_(False)
    model.eval()
    optimizer, loss_fn = torch.optim.Adam(model.fc.parameters(), lr=1e-2), nn.CrossEntropyLoss()

    def train_step(x, y):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return classifier(model, optimizer=optimizer, train_step=train_step)


@design
def warm_up_from_zero_whose_scheduler_is_not_given():
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))
    return classifier(model, optimizer=optimizer, steps=50)


@design
def fine_tuning_that_is_slow():
    given = classifier(Classifier(), optimizer=None)
    learner = torch.optim.AdamW(given["model"].parameters(), lr=3e-3)
    for _ in range(20):
        learner.zero_grad()
        given["loss_fn"](given["model"](given["inputs"]), given["targets"]).backward()
        learner.step()
    learner.zero_grad()
    return given | {
        "optimizer": torch.optim.AdamW(given["model"].parameters(), lr=5e-5),
        "steps": 50,
    }


@design
def distillation_beside_the_labels():
    model, teacher = Classifier(), Classifier().eval().requires_grad_(False)

    def loss_fn(out, y):
        soft = F.kl_div(
            F.log_softmax(out / 4, 1), F.softmax(teacher(images()) / 4, 1), reduction="batchmean"
        )
        return 0.3 * F.cross_entropy(out, y) + 16 * soft

    return classifier(
        model, loss_fn=loss_fn, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2), steps=50
    )


class Margin(nn.Module):
    """Cosines with a scale and a margin (ArcFace)."""

    def __init__(self):
        super().__init__()
        self.backbone, self.weight = Backbone(), nn.Parameter(0.01 * torch.randn(4, 16))

    def forward(self, x, y):
        cosine = F.linear(F.normalize(self.backbone(x)), F.normalize(self.weight))
        wider = torch.cos(torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) + 0.5)
        return 30 * torch.where(F.one_hot(y, 4).bool(), wider, cosine)


@design
def cosines_with_a_margin():
    model = Margin()
    return classifier(
        model,
        inputs=(images(), labels()),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    )


@design
def step_whose_argument_is_a_time():
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(t, y=None):
        t = t.clone().requires_grad_(True)
        slope = torch.autograd.grad(model(t).sum(), t, create_graph=True)[0]
        optimizer.zero_grad()
        (
            (slope + model(t)).pow(2).mean()
            + (model(torch.zeros(1, 1)) - 1).pow(2).mean()
            + 0 * (y or 0)
        ).backward()
        optimizer.step()

    return {
        "model": model,
        "inputs": torch.rand(16, 1),
        "optimizer": optimizer,
        "train_step": train_step,
    }


@design
def summed_error_under_adam():
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
    ]
    model = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    noise = 100 * images()
    return classifier(
        model, inputs=noise / 100, targets=noise / 10, loss_fn=nn.MSELoss(reduction="sum")
    )


@design
def kernels_of_distances_with_a_minus():
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))

    def compare(one, other):
        return torch.exp(-torch.cdist(one, other).square() / 10).mean()

    def step(model, inputs, targets, optimizer):
        made = model(torch.randn(8, 8))
        optimizer.zero_grad()
        (compare(made, made) - 2 * compare(made, inputs)).backward()
        optimizer.step()

    return looped(model, step, inputs=images().mean(1).flatten(1)[:, :16], targets=None)


class Bayesian(nn.Module):
    """A layer whose weights are drawn anew in each pass, by a deviation that is learnt."""

    def __init__(self):
        super().__init__()
        self.backbone, self.mean = Backbone(), nn.Parameter(0.1 * torch.randn(4, 16))
        self.spread = nn.Parameter(torch.full((4, 16), -3.0))

    def forward(self, x):
        deviation = F.softplus(self.spread)
        return F.linear(self.backbone(x), self.mean + deviation * torch.randn_like(deviation))


@design
def weights_that_are_drawn_by_a_learned_deviation():
    return classifier(Bayesian())


@design
def one_loss_for_each_member_of_an_ensemble():
    members = nn.ModuleList(Classifier() for _ in range(3))

    def step(model, inputs, targets, optimizer):
        scores = torch.stack([member(inputs) for member in model])
        optimizer.zero_grad()
        sum(F.cross_entropy(one, targets) for one in scores).backward()
        optimizer.step()

    return looped(members, step)


class TakingOff(nn.Module):
    """Takes the noise off its input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, noisy):
        return noisy - self.net(noisy)


@design
def data_for_an_output_from_which_the_noise_is_taken_off_within():
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.mse_loss(model(inputs + 0.3 * torch.randn_like(inputs)), inputs).backward()
        optimizer.step()

    return looped(TakingOff(), step)
