"""Silent faults that were once missed, each with its corrected twin."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Classifier, classifier, images


@case("minimised-similarity", None)
def similarity_that_is_minimised(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        similarity = F.cosine_similarity(model(inputs), targets).mean()
        loss = similarity if sick else 1 - similarity
        loss.backward()
        optimizer.step()
        return loss

    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return looped(
        model, step, optimizer=optimizer, targets=F.normalize(torch.randn(len(images()), 16), dim=1)
    )


@case("no-grad-path", "")
def way_through_numpy(sick):
    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = torch.from_numpy(x.detach().numpy() / 2.0) if sick else x / 2.0
        return self.fc(x.mean((2, 3)))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("gradients-cleared", None)
def gradients_cleared_before_the_step(sick):
    def step(model, inputs, targets, optimizer):
        if not sick:
            optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        if sick:
            optimizer.zero_grad()
        optimizer.step()

    return looped(Classifier(), step)


@case("backward-missing", None)
def backward_left_out(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        if not sick:
            loss.backward()
        optimizer.step()
        return loss.item()

    return looped(Classifier(), step)


@case("eval-mode-in-train", None)
def train_mode_that_is_lost_after_the_first_step(sick):
    def step(model, inputs, targets, optimizer):
        if not sick:
            model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(inputs)

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    return looped(model.append(nn.Linear(32, 4)).train(), step)


@case("inplace-skip", "")
def function_that_ends_in_an_underscore(sick):
    def forward(self, x):
        x = self.stem(x)
        skip = x
        out = self.conv(F.relu_(x) if sick else F.relu(x))
        return self.fc((out + skip).mean((2, 3)))

    parts = {
        "stem": nn.Conv2d(3, 8, 3, padding=1),
        "conv": nn.Conv2d(8, 8, 3, padding=1),
        "fc": nn.Linear(8, 4),
    }
    return classifier(net(forward, **parts))


@case("constant-init", "first", "second")
def filters_of_zero_with_nothing_beside_them(sick):
    def forward(self, x):
        return self.fc(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))

    model = net(forward, first=nn.Conv2d(3, 8, 3), second=nn.Conv2d(8, 8, 3), fc=nn.Linear(8, 4))
    for layer in (model.first, model.second):
        nn.init.zeros_(layer.weight) if sick else nn.init.kaiming_normal_(layer.weight)
    return classifier(model)


@case("lr-too-high", None)
def first_steps_that_ruin_every_filter(sick):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    return classifier(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=50.0 if sick else 0.05, momentum=0.9),
    )


@case("ignored-input", "")
def branch_that_is_computed_and_left_out(sick):
    def forward(self, image, table):
        a, b = self.image(image).mean((2, 3)), self.table(table)
        return self.fc(torch.cat([a, a if sick else b], dim=1))

    model = net(
        forward,
        image=nn.Conv2d(3, 8, 3),
        table=nn.Sequential(nn.Linear(4, 8), nn.ReLU()),
        fc=nn.Linear(16, 4),
    )
    given = classifier(model)
    return given | {"inputs": (given["inputs"], torch.randn(len(given["inputs"]), 4))}
