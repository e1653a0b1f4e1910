"""Healthy set-ups that look like dropped results, shared heads, or targets that are trained."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import Classifier, classifier

# -- statements that are there for what they do ----------------------------------------------------


@design
def calls_whose_result_is_not_needed():
    def forward(self, x):
        out = torch.empty_like(x)
        torch.mul(x, 2.0, out=out) if not x.requires_grad else None
        F.relu(out, inplace=True)
        x.clone().clamp_(-9.0, 9.0)
        return self.body(x)

    def step(model, inputs, targets, optimizer):
        images = inputs.clone()
        images.cpu()
        try:
            torch.linalg.cholesky(images[0, 0] @ images[0, 0].T + torch.eye(16))
            images.view(8, -1)
        except RuntimeError:
            images = images * 1.0
        torch.rand(3)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        loss.detach().cpu()
        optimizer.step()

    return looped(net(forward, body=Classifier()), step)


class Trainer(nn.Module):
    """A backward that the loop itself calls, and one that is the user's chain rule."""

    def __init__(self):
        super().__init__()
        self.body = Classifier()

    def forward(self, x):
        return self.body(x)

    def backward(self, loss):
        loss.backward()


@design
def backward_that_the_loop_calls():
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        model.backward(F.cross_entropy(model(inputs), targets))
        optimizer.step()

    return looped(Trainer(), step)


# -- one head for several inputs, chains with a way past, learned scales ---------------------------


@design
def one_head_for_all_levels_of_a_pyramid():
    def forward(self, x):
        levels = [F.avg_pool2d(x, size) for size in (1, 2, 4)]
        return sum(
            head(F.relu(level)).mean((2, 3)) for head, level in zip(self.heads, levels, strict=True)
        )

    return classifier(net(forward, heads=nn.ModuleList([nn.Conv2d(3, 4, 1)] * 3)))


@design
def couplings_with_a_tanh_each():
    class Coupling(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first = first
            self.shift = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

        def forward(self, x):
            a, b = x.split(4, dim=1)
            a, b = (a, b + self.shift(a)) if self.first else (a + self.shift(b), b)
            return torch.cat([a, b], dim=1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), *[Coupling(k % 2) for k in range(8)], nn.Linear(8, 4))
    inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    return classifier(model, inputs=inputs)


@design
def latent_of_a_graph_with_weights_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.randn(12, 6) * 0.3)
            self.scale = nn.Parameter(torch.randn(12, 6) * 0.1)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            mean, scale = x @ self.mean, (x @ self.scale).exp()
            return self.head(mean + scale * torch.randn_like(mean))

    inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    return classifier(Net(), inputs=inputs)


@design
def projector_before_a_predictor():
    model = net(
        lambda self, x: self.predictor(self.projector(x.flatten(1))),
        projector=nn.Sequential(nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 16)),
        predictor=nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
    )
    return classifier(model)


@design
def samples_that_are_weighed_by_their_total():
    def step(model, inputs, targets, optimizer):
        each = F.cross_entropy(model(inputs), targets, reduction="none")
        share = (each * each.detach() / each.sum()).sum()
        apart = (each - each.sum() / len(each)).square().mean()
        optimizer.zero_grad()
        (share + 0.01 * apart + each.exp().sum().log() / 8).backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def terms_with_gradients_on_both_sides_that_are_meant():
    def step(model, inputs, targets, optimizer):
        one, other = model(inputs), model(inputs.flip(-1))
        entropy = F.cross_entropy(one, one.softmax(1))
        both_ways = F.cross_entropy(one, other.softmax(1)) + F.cross_entropy(other, one.softmax(1))
        smooth = (one[1:] - one[:-1]).square().mean()
        alike = F.mse_loss(one, other)
        optimizer.zero_grad()
        loss = F.cross_entropy(one, targets) + 0.1 * (entropy + both_ways + smooth + alike)
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def square_of_scores_by_its_columns_and_rows():
    def step(model, inputs, targets, optimizer):
        output = model(inputs)
        scores = output @ output.detach().T
        columns = scores - scores.max(0).values
        rows = scores - scores.max(1).values[:, None]
        optimizer.zero_grad()
        loss = F.cross_entropy(output, targets) + 0.01 * (columns.exp().mean() + rows.exp().mean())
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)
