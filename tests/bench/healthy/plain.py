"""Plain programs that learn, slowly or in parts: small steps, much dropout, networks beside the
forward, boxes, moved constants.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.design import design
from bench.parts import classifier, images, labels


@design
def small_steps_that_each_lower_the_loss():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 4))
    return classifier(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-4), steps=50)


@design
def dropout_of_four_fifths_of_a_wide_layer():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 4)
    )
    return classifier(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3), steps=20)


class Pair(nn.Module):
    """Both networks of a GAN, of which the forward calls one."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 768), nn.Tanh(), nn.Unflatten(1, (3, 16, 16))
        )
        self.critic = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 3, 2),
            nn.Flatten(),
            nn.Linear(144, 1),
        )

    def forward(self, z):
        return self.generator(z)


@design
def generator_whose_critic_the_forward_leaves_out():
    return {"model": Pair(), "inputs": torch.randn(8, 8)}


class Moved(nn.Module):
    """Constants that the forward takes along to the device of its input."""

    def __init__(self):
        super().__init__()
        self.mean, self.scales = (
            torch.full((3, 1, 1), 0.1),
            [torch.ones(3, 1, 1), torch.full((3, 1, 1), 2.0)],
        )
        self.fc = nn.Linear(768, 4)

    def forward(self, x):
        x = x - self.mean.to(x.device)
        return self.fc((x * torch.cat(self.scales)[:3].type_as(x)).flatten(1))


@design
def constants_that_the_forward_moves():
    return classifier(Moved())


class Boxes(nn.Module):
    """Two maps give boxes in pixels; those that lie over the object by area alone are trained, here
    none of the second map.
    """

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])

    def forward(self, x):
        x = F.relu(self.body(x))
        boxes = torch.cat([head(x).flatten(2).transpose(1, 2) for head in self.heads], 1)
        corners = torch.cat([torch.full((256, 4), 100.0), torch.full((256, 4), 900.0)])
        areas = corners[:, 2] * corners[:, 3]
        chosen = torch.where(areas < 1e5)[0]
        return boxes[:, chosen]


@design
def boxes_in_pixels_of_which_an_area_chooses():
    return classifier(Boxes(), targets=torch.zeros(8, 256, 4), loss_fn=nn.SmoothL1Loss())


class Contrast(nn.Module):
    """The right answer is always in the first place."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 16))
        self.register_buffer(
            "others",
            F.normalize(torch.randn(16, 24, generator=torch.Generator().manual_seed(0)), dim=0),
        )

    def forward(self, x, y):
        query, key = (F.normalize(self.net(part), dim=1) for part in (x, y))
        same = torch.einsum("nc,nc->n", query, key.detach())[:, None]
        return torch.cat([same, torch.einsum("nc,ck->nk", query, self.others.clone())], 1) / 0.2


@design
def contrast_of_which_the_first_is_always_right():
    return classifier(
        Contrast(), inputs=(images(), images().flip(3)), targets=torch.zeros_like(labels())
    )


@design
def raw_pixels_before_a_norm_that_has_seen_none():
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 4)
    )
    return {"model": model.eval(), "inputs": (images() * 64 + 128).clamp(0, 255).round()}


@design
def whole_epoch_with_one_step_of_the_scheduler():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)

    def epoch(x, y):
        for part in range(0, len(x), 2):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part : part + 2]), y[part : part + 2]).backward()
            optimizer.step()
        scheduler.step()

    return classifier(model, optimizer=optimizer, scheduler=scheduler, train_step=epoch)
