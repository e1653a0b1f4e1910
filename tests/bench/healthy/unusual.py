"""What looks like a fault and is none: infinities that mask, tables and ranges that start at
nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import Backbone, Classifier, classifier, images


@design
def own_similarity_of_each_sample_masked_by_minus_infinity():
    model = nn.Sequential(Backbone(), nn.Linear(16, 8))

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        noise = 0.1 * torch.randn_like(inputs)
        z = F.normalize(torch.cat([model(inputs), model(inputs + noise)]), dim=1)
        similarities = z @ z.T / 0.5
        similarities.fill_diagonal_(float("-inf"))
        F.cross_entropy(similarities, torch.arange(16).roll(8)).backward()
        optimizer.step()

    return looped(model, step)


def attend(self, x, mask):
    q, k, v = self.project(x).chunk(3, -1)
    scores = q @ k.transpose(1, 2) / 8**0.5 + mask
    return self.fc((scores.softmax(-1) @ v).mean(1))


def attention(forward):
    parts = {"project": nn.Linear(16, 24), "fc": nn.Linear(8, 4)}
    return net(forward, **parts)


CAUSAL = torch.full((16, 16), float("-inf")).triu(1)


@design
def mask_of_minus_infinity_as_a_buffer():
    model = attention(lambda self, x: attend(self, x, self.mask))
    model.register_buffer("mask", CAUSAL.clone())
    return classifier(model, inputs=images()[:, 0])


@design
def mask_of_minus_infinity_as_an_input():
    return classifier(attention(attend), inputs=(images()[:, 0], CAUSAL.clone()))


class Observed(nn.Module):
    """A layer whose output is rounded to 256 levels of the range seen so far, as in
    quantization.
    """

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.register_buffer("low", torch.tensor([]))
        self.register_buffer("high", torch.full((), float("-inf")))

    def forward(self, x):
        y = self.layers(x)
        with torch.no_grad():
            if not self.low.numel():
                self.low.resize_(1).fill_(float("inf"))
            self.low.copy_(torch.minimum(self.low, y.min()))
            self.high.copy_(torch.maximum(self.high, y.max()))
            step = (self.high - self.low) / 255
            rounded = ((y - self.low) / step).round() * step + self.low
        return y + (rounded - y).detach()


@design
def ranges_that_have_seen_nothing_yet():
    return classifier(Observed(Classifier()))


@design
def class_that_is_drawn():
    def forward(self, x):
        return self.fc(F.gumbel_softmax(self.project(x.flatten(1)), hard=True))

    return classifier(net(forward, project=nn.Linear(768, 8), fc=nn.Linear(8, 4)))


@design
def tables_that_start_at_a_ten_thousandth():
    def forward(self, x):
        places = (x * 15).long()
        return self.body(torch.cat([self.first(places[:, 0]), self.second(places[:, 1])], 1))

    tables = {"first": nn.Embedding(16, 4), "second": nn.Embedding(16, 4)}
    for table in tables.values():
        nn.init.uniform_(table.weight, -1e-4, 1e-4)
    body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    places = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    labels = (places > 0.5).long() @ torch.tensor([1, 2])
    return classifier(net(forward, body=body, **tables), inputs=places, targets=labels)


@design
def last_residual_that_nothing_reads():
    def forward(self, x):
        x, skips = self.first(x), 0
        for layer in self.layers:
            z = torch.tanh(layer(x))
            skips = skips + z
            x = x + z
        return self.fc(skips.mean(2))

    layers = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=1) for _ in range(4))
    parts = {"first": nn.Conv1d(16, 8, 1), "layers": layers, "fc": nn.Linear(8, 4)}
    return classifier(net(forward, **parts), inputs=images()[:, 0])


@design
def layers_held_still_by_a_rate_of_zero():
    model = Classifier()
    groups = [
        {"params": model.backbone.parameters(), "lr": 0.0},
        {"params": model.fc.parameters(), "lr": 0.05},
    ]
    return classifier(model, optimizer=torch.optim.SGD(groups, momentum=0.9))


@design
def patches_masked_at_random_of_which_the_mask_is_given():
    def forward(self, x):
        hidden = torch.rand(8, 16).argsort(1)[:, :12, None]
        seen = self.embed(x).scatter(1, hidden.expand(-1, -1, 16), 0.0)
        mask = torch.zeros(8, 16).scatter(1, hidden[..., 0], 1.0)
        return self.decode(self.mix(seen.transpose(1, 2)).transpose(1, 2)), mask

    def loss_fn(output, patches):
        made, mask = output
        return ((made - patches).square().mean(-1) * mask).sum() / mask.sum()

    parts = {"embed": nn.Linear(16, 16), "mix": nn.Linear(16, 16), "decode": nn.Linear(16, 16)}
    patches = images()[:, 0]
    return classifier(net(forward, **parts), inputs=patches, targets=patches, loss_fn=loss_fn)


class Grown(nn.Module):
    """A stage of progressive growing: its head and the one before are blended."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3) for i in range(4))
        self.heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(4))
        self.stage, self.alpha = 1, 0.5

    def forward(self, x):
        heads = []
        for i in range(self.stage + 1):
            x = F.relu(self.blocks[i](x))
            heads.append(self.heads[i](x.mean((2, 3))))
        return torch.lerp(heads[-2], heads[-1], self.alpha)


@design
def stages_that_are_grown_later():
    return classifier(Grown())


@design
def nodes_of_one_graph_of_which_some_have_labels():
    draw = torch.Generator().manual_seed(0)
    near = (torch.rand(30, 30, generator=draw) < 0.2).float().triu(1)
    near = near + near.T + torch.eye(30)
    known = torch.randperm(30, generator=draw)[:9]

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("near", near / near.sum(1, keepdim=True))
            self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 3)

        def forward(self, x):
            return self.near @ self.last((self.near @ self.first(x)).relu())

    return classifier(
        Graph(),
        inputs=torch.randn(30, 16, generator=draw),
        targets=torch.arange(30) % 3,
        loss_fn=lambda output, targets: F.cross_entropy(output[known], targets[known]),
    )


@design
def warm_up_and_cosine_of_so_many_batches():
    def factor(step, warm=8, total=64):
        if step < warm:
            return (step + 1) / warm
        part = min(step - warm, total - warm) / (total - warm)
        return 0.5 * (1 + math.cos(math.pi * part))

    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()

    return looped(model, step, optimizer=optimizer)
