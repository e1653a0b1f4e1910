"""Slips that were met in the open, in the data, the loop and between the layers."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Classifier, classifier, images, labels


@case("lr-too-low", None)
def rate_that_rounding_takes_away(sick):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9 if sick else 1e-2)
    return classifier(model, optimizer=optimizer)


@case("lr-too-low", None)
def steps_below_the_precision_of_bfloat16(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 4)).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5 if sick else 0.1)
    return classifier(model, inputs=images().bfloat16(), optimizer=optimizer)


@case("schedule-at-zero", None)
def warm_up_by_batches_that_nobody_steps(sick):
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda count: min(1, count / 200))

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if not sick:
            scheduler.step()

    return looped(model, step, optimizer=optimizer, scheduler=scheduler)


@case("frozen-params", "fc")
def new_head_that_the_loop_over_names_froze(sick):
    model = Classifier()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            name.startswith(("backbone.bn2", "backbone.conv2") if sick else "fc")
        )
    return classifier(model)


@case("input-range", None)
def pixels_divided_as_integers(sick):
    pixels = (images().sigmoid() * 254).to(torch.uint8)
    return classifier(Classifier(), inputs=(pixels // 255).float() if sick else pixels / 255)


@case("softmax-dim", "")
def attention_over_the_score_of_a_single_unit(sick):
    def forward(self, x):
        h = torch.tanh(self.embed(x))
        weights = F.softmax(self.score(h), dim=-1 if sick else 1)
        return self.fc((weights * h).sum(1))

    parts = {"embed": nn.Linear(6, 16), "score": nn.Linear(16, 1), "fc": nn.Linear(16, 4)}
    words = torch.randn(8, 10, 6, generator=torch.Generator().manual_seed(0))
    return classifier(net(forward, **parts), inputs=words)


@case("zero-grad", "4")
def sigmoid_at_its_end_under_a_squared_error(sick):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid()
    )
    nn.init.constant_(model[3].bias, 60.0 if sick else 0.0)
    return classifier(model, targets=(labels()[:, None] % 2).float(), loss_fn=nn.MSELoss())


@case("zero-grad", "")
def outputs_clamped_where_all_are_outside(sick):
    def forward(self, x):
        return torch.clamp(self.b(F.relu(self.a(x))), 0, 1)

    model = net(forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 3, 3, padding=1))
    nn.init.constant_(model.b.bias, -4.0 if sick else 0.5)
    return classifier(model, targets=images().sigmoid(), loss_fn=nn.MSELoss())


@case("reshape-scramble", "")
def sequence_for_a_gru_made_by_view(sick):
    def forward(self, x):
        x = self.conv(x).relu()
        n, c, h, w = x.shape
        steps = x.reshape(w, n, c * h) if sick else x.permute(3, 0, 1, 2).reshape(w, n, c * h)
        return self.fc(self.gru(steps)[0][-1])

    parts = {"conv": nn.Conv2d(3, 4, 3, padding=1), "gru": nn.GRU(64, 16), "fc": nn.Linear(16, 4)}
    return classifier(net(forward, **parts))


@case("reshape-scramble", "")
def pictures_with_channels_last_made_channels_first_by_view(sick):
    def forward(self, x):
        x = x.view(-1, 3, 16, 16) if sick else x.permute(0, 3, 1, 2)
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))

    model = net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4))
    return classifier(model, inputs=images().permute(0, 2, 3, 1).contiguous())


@case("reshape-scramble", None)
def scores_of_pixels_flattened_with_classes_in_front(sick):
    def loss_fn(scores, target):
        scores = scores if sick else scores.permute(0, 2, 3, 1)
        return F.cross_entropy(scores.reshape(-1, 4), target.reshape(-1))

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    places = torch.arange(8 * 16 * 16).view(8, 16, 16) % 4
    return classifier(model, targets=places, loss_fn=loss_fn)


@case("batch-leak", "")
def attention_to_channels_over_the_whole_batch(sick):
    def forward(self, x):
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.gate(x.mean(dim=(0, 2, 3) if sick else (2, 3))))
        return self.fc(x.mean((2, 3)) * gate)

    parts = {"conv": nn.Conv2d(3, 8, 3), "gate": nn.Linear(8, 8), "fc": nn.Linear(8, 4)}
    return classifier(net(forward, **parts))


@case("loss-out-of-range", None)
def focal_loss_of_scores_that_were_never_squashed(sick):
    def loss_fn(scores, target):
        p = scores if sick else scores.sigmoid()
        p = torch.where(target == 1, p, 1 - p)
        return (-((1 - p) ** 2) * torch.log(p.clamp(min=1e-6))).mean()

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return classifier(model, targets=(images()[:, :1] > 0).long(), loss_fn=loss_fn)


@case("loss-always-zero", None)
def two_views_that_are_the_same(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        other = x if sick else x + 0.5 * torch.randn_like(x)
        a, b = F.normalize(model(x), dim=1), F.normalize(model(other), dim=1)
        (2 - 2 * (a * b.detach()).sum(1).mean()).backward()
        optimizer.step()

    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 16))
    return looped(model, step)


@case("no-grad-params", "gate")
def gate_that_is_a_comparison(sick):
    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        return self.fc(
            (F.relu(self.conv(x)) * ((gate > 0.5).float() if sick else gate)).mean((2, 3))
        )

    parts = {"gate": nn.Conv2d(3, 1, 3), "conv": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, 4)}
    return classifier(net(forward, **parts))


@case("loss-detached", None)
def loss_that_is_made_of_its_number(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if sick:
            loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("optimizer-renewed", None)
def momentum_that_begins_anew_in_each_step(sick):
    def step(model, x, y, optimizer):
        if sick:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    model = Classifier()
    return looped(model, step, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


@case("vanishing-activation", "6", "8")
def ten_convolutions_at_a_hundredth(sick):
    sizes = [(3 if i == 0 else 16, 16) for i in range(10)]
    convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in sizes]
    for conv in convs:
        if sick:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        else:
            nn.init.kaiming_normal_(conv.weight)
    layers = [part for conv in convs for part in (conv, nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return classifier(model)


@case("vanishing-activation", "10", "12", "14")
def twelve_plain_convolutions_as_torch_initialises_them(sick):
    torch.manual_seed(0)
    convs = [nn.Conv2d(3 if i == 0 else 12, 12, 3, padding=1) for i in range(12)]
    if not sick:
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
    layers = [part for conv in convs for part in (conv, nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4))
    return classifier(model) | {"steps": 20}


@case("nan-forward", None)
def logarithm_of_zero_under_a_rate_that_is_too_high(sick):
    def loss_fn(p, target):
        p = p if sick else p.clamp(1e-6, 1 - 1e-6)
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()

    model = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid()
    )
    with torch.no_grad():
        model[3].weight.mul_(4000 if sick else 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05 if sick else 1e-3)
    target = (labels()[:, None] % 2).float()
    return classifier(model, targets=target, loss_fn=loss_fn, optimizer=optimizer)
