"""Healthy loops that work with more than the model: losses with networks, critics, teachers."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import judged
from bench.case import looped, net
from bench.design import design
from bench.parts import Classifier, classifier, images


class Perceptual(nn.Module):
    """A network that nobody has frozen compares pictures."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))

    def forward(self, output, target):
        return F.l1_loss(self.features(output), self.features(target))


@design
def perceptual_loss_of_a_network_that_is_not_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    wanted = images().roll(1, 0) * 0.5
    return classifier(model, targets=wanted, loss_fn=Perceptual())


class Centres(nn.Module):
    """The distance to the centre of its class, which has an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(4, 4))

    def forward(self, scores, targets):
        return (scores - self.points[targets]).square().mean()


@design
def centres_of_the_loss_with_an_optimizer_of_their_own():
    torch.manual_seed(0)
    criterion = Centres()
    centring = torch.optim.SGD(criterion.parameters(), lr=0.5)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        centring.zero_grad()
        scores = model(x)
        (F.cross_entropy(scores, y) + 0.01 * criterion(scores, y)).backward()
        optimizer.step()
        centring.step()

    return looped(Classifier(), step)


def with_critic(step):
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (maker, critic))
    real = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def train_step(noise):
        step(maker, critic, makes, judges, noise, real)

    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return {"model": maker, "inputs": noise, "optimizer": [makes, judges], "train_step": train_step}


@design
def critic_that_gathers_the_gradients_of_many_batches():
    def step(maker, critic, makes, judges, noise, real):
        made = maker(noise)
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).div(64).backward()
        critic.requires_grad_(False)
        makes.zero_grad()
        judged(critic(made), 1.0).backward()
        makes.step()
        critic.requires_grad_(True)

    return with_critic(step)


@design
def critic_that_was_trained_before_and_only_judges():
    def step(maker, critic, makes, judges, noise, real):
        makes.zero_grad()
        judges.zero_grad()
        (judged(critic(maker(noise)), 1.0) + 0.1 * F.mse_loss(maker(noise), real)).backward()
        makes.step()

    return with_critic(step)


def with_copies(follow):
    """A classifier, a teacher in eval mode and an anchor that stays, and what follows how."""
    torch.manual_seed(0)
    model = Classifier()
    teacher, anchor = (copy.deepcopy(model).eval().requires_grad_(False) for _ in range(2))

    def step(model, x, y, optimizer):
        with torch.no_grad():
            wanted = teacher(x).softmax(1)
            old = anchor(x).softmax(1)
        optimizer.zero_grad()
        scores = model(x)
        asked = F.cross_entropy(scores, wanted) + F.cross_entropy(scores, old)
        (F.cross_entropy(scores, y) + 0.1 * asked).backward()
        optimizer.step()
        with torch.no_grad():
            follow(teacher, model)

    trained = [p for p in model.parameters() if p.requires_grad]
    return looped(model, step, optimizer=torch.optim.Adam(trained, lr=1e-3))


@design
def teacher_that_follows_with_its_buffers_beside_an_anchor_that_stays():
    def follow(teacher, model):
        for own, of in zip(teacher.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(own.lerp(of, 0.01) if own.is_floating_point() else of)

    return with_copies(follow)


@design
def average_that_follows_so_slowly_that_a_weight_of_one_stays():
    def follow(teacher, model):
        for own, of in zip(teacher.parameters(), model.parameters(), strict=True):
            own.lerp_(of, 1e-5)
        for own, of in zip(teacher.buffers(), model.buffers(), strict=True):
            own.copy_(of)

    return with_copies(follow)


@design
def average_of_parameters_that_is_not_called_in_training():
    torch.manual_seed(0)
    model = Classifier()
    average = copy.deepcopy(model).eval().requires_grad_(False)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for own, of in zip(average.parameters(), model.parameters(), strict=True):
                own.lerp_(of, 0.01)

    return looped(model, step)


@design
def padded_words_of_which_most_are_the_ignored_zero():
    def forward(self, x):
        return self.head(self.words(x)).transpose(1, 2)

    words = torch.zeros(8, 12, dtype=torch.long)
    words[:, :4] = torch.randint(1, 9, (8, 4), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = net(forward, words=nn.Embedding(9, 8), head=nn.Linear(8, 9))
    ignoring = nn.CrossEntropyLoss(ignore_index=0)
    return classifier(model, inputs=words, targets=words.roll(1, 1), loss_fn=ignoring)


@design
def distance_to_a_surface_whose_slope_is_one_at_each_point():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), nn.Softplus(), nn.Linear(32, 1))
    points = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(inputs):
        inputs = inputs.clone().requires_grad_()
        far = model(inputs)
        slope = torch.autograd.grad(far.sum(), inputs, create_graph=True)[0]
        wanted = inputs.detach().norm(dim=-1, keepdim=True) - 1
        optimizer.zero_grad()
        (F.l1_loss(far, wanted) + 0.1 * ((slope.norm(dim=-1) - 1) ** 2).mean()).backward()
        optimizer.step()

    return {"model": model, "inputs": points, "optimizer": optimizer, "train_step": train_step}


@design
def drawn_code_that_is_found_again_in_the_picture():
    torch.manual_seed(0)
    maker, finder = nn.Linear(8, 64), nn.Linear(64, 8)
    parts = nn.ModuleDict({"maker": maker, "finder": finder})
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-3)

    def train_step(inputs):
        code = torch.randn(len(inputs), 8)
        made = maker(code).tanh()
        optimizer.zero_grad()
        (F.mse_loss(finder(made), code) + 0.1 * F.mse_loss(made, inputs)).backward()
        optimizer.step()

    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(1)).tanh()
    return {"model": parts, "inputs": inputs, "optimizer": optimizer, "train_step": train_step}


@design
def fifty_steps_at_a_loss_that_cannot_fall():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4))
    twice = torch.cat([images(4), images(4)])  # each picture has two labels: at best ln 2
    named = torch.tensor([0, 1, 2, 3, 1, 2, 3, 0])
    before = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        before.zero_grad()
        F.cross_entropy(model(twice), named).backward()
        before.step()
    before.zero_grad()
    slow = torch.optim.SGD(model.parameters(), lr=1e-5)
    return classifier(model, inputs=twice, targets=named, optimizer=slow, steps=50)


def coding(weigh):
    """A variational autoencoder; `weigh` makes its loss of the error and the divergence."""

    def forward(self, x):
        mean, spread = self.mean(x.flatten(1)), self.spread(x.flatten(1))
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        return self.back(code), mean, spread

    def loss_fn(output, wanted):
        made, mean, spread = output
        apart = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1)
        return weigh(made, wanted.flatten(1), apart)

    torch.manual_seed(0)
    parts = {"mean": nn.Linear(768, 8), "spread": nn.Linear(768, 8), "back": nn.Linear(8, 768)}
    return classifier(net(forward, **parts), targets=images(), loss_fn=loss_fn)


@design
def mean_error_beside_a_divergence_of_little_weight():
    return coding(lambda made, wanted, apart: F.mse_loss(made, wanted) + 0.002 * apart.mean())


@design
def error_of_each_sample_with_a_divergence_of_four_times_its_weight():
    def weigh(made, wanted, apart):
        return F.mse_loss(made, wanted, reduction="sum") / len(made) + 4 * apart.mean()

    return coding(weigh)
