"""Silent faults in losses and loops of one's own, each with its corrected twin; they add to the
cases of the bench.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Classifier, classifier, images, labels


def segmenter(**others):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1)
    )
    masks = torch.bucketize(F.avg_pool2d(images(), 5, 1, 2).mean(1), torch.tensor([-0.05, 0.05]))
    return classifier(model, targets=masks) | others


def dice(probabilities, target):
    shared = (probabilities * target).sum((2, 3))
    return 1 - ((2 * shared + 1) / (probabilities.sum((2, 3)) + target.sum((2, 3)) + 1)).mean()


@case("softmax-dim", None)
def dice_of_a_softmax_over_the_batch(sick):
    def loss_fn(logits, target):
        return dice(
            F.softmax(logits, dim=0 if sick else 1), F.one_hot(target, 3).permute(0, 3, 1, 2)
        )

    return segmenter(loss_fn=loss_fn)


@case("softmax-over-positions", None)
def dice_of_a_softmax_over_the_columns(sick):
    def loss_fn(logits, target):
        return dice(
            (logits / 0.7).softmax(-1 if sick else 1), F.one_hot(target, 3).permute(0, 3, 1, 2)
        )

    return segmenter(loss_fn=loss_fn)


@case("softmax-dim", None)
def own_cross_entropy_over_the_batch(sick):
    def loss_fn(logits, target):
        return -torch.log_softmax(logits, 0 if sick else 1)[
            torch.arange(len(target)), target
        ].mean()

    return classifier(Classifier(), loss_fn=loss_fn)


@case("zero-grad", None)
def dice_of_rounded_predictions(sick):
    def loss_fn(logits, target):
        probabilities = torch.sigmoid(logits)
        return dice(
            torch.round(probabilities) if sick else probabilities,
            F.one_hot(target, 3).permute(0, 3, 1, 2),
        )

    return segmenter(loss_fn=loss_fn)


@case("zero-grad", None)
def positive_that_is_also_the_negative(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        anchor, positive, negative = model(inputs), model(inputs + 0.1), model(inputs.flip(0))
        loss = F.triplet_margin_loss(anchor, positive, positive if sick else negative)
        loss.backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("loss-activation-mismatch", "body.fc")
def cross_entropy_of_several_labels(sick):
    several = F.one_hot(labels(), 4).float()
    several[:, 0] = 1.0

    def forward(self, x):
        return self.body(x)

    return classifier(
        net(forward, body=Classifier()),
        targets=several,
        loss_fn=nn.CrossEntropyLoss() if sick else nn.BCEWithLogitsLoss(),
    )


@case("loss-activation-mismatch", "")
def softmax_of_several_labels(sick):
    several = F.one_hot(labels(), 4).float()
    several[:, 0] = 1.0

    def forward(self, x):
        return self.body(x).softmax(1) if sick else self.body(x).sigmoid()

    return classifier(net(forward, body=Classifier()), targets=several, loss_fn=nn.BCELoss())


@case("activation-on-logits", "")
def dropout_behind_the_last_layer(sick):
    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        if sick:
            return F.dropout(self.fc(x), 0.5, self.training)
        return self.fc(F.dropout(x, 0.5, self.training))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("batch-as-time", "encoder.layers.0.self_attn")
def class_token_that_sees_other_samples_only(sick):
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.fc(self.encoder(x)[:, 0])

    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=not sick)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    parts = {
        "patch": nn.Conv2d(3, 16, 4, 4),
        "token": nn.Parameter(torch.zeros(1, 1, 16)),
        "encoder": encoder,
        "fc": nn.Linear(16, 4),
    }
    return classifier(net(forward, **parts))


@case("step-missing", None)
def update_by_hand_of_a_copy(sick):
    def step(model, inputs, targets, optimizer):
        model.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            for p in model.parameters():
                moved = p - 0.05 * p.grad
                if not sick:
                    p.copy_(moved)

    given = looped(Classifier(), step)
    return given | {"optimizer": None}


def attending(sick, weigh):
    """A block of attention between positions; `weigh` makes scores to weights and mixes the values
    with them.
    """

    def forward(self, x):
        x = F.relu(self.stem(x))
        q, k, v = (part(x).flatten(2) for part in (self.q, self.k, self.v))
        return self.fc((x.flatten(2) + weigh(q, k, v, sick)).mean(2))

    parts = {name: nn.Conv2d(8, 8, 1) for name in "qkv"}
    return classifier(net(forward, stem=nn.Conv2d(3, 8, 3, 2), fc=nn.Linear(8, 4), **parts))


@case("softmax-over-queries", "")
def attention_that_normalises_over_the_queries(sick):
    def weigh(q, k, v, sick):
        weights = torch.bmm(q.permute(0, 2, 1), k).softmax(dim=1 if sick else -1)
        return torch.bmm(v, weights.permute(0, 2, 1))

    return attending(sick, weigh)


@case("softmax-over-queries", "")
def heads_that_normalise_over_each_other(sick):
    def weigh(q, k, v, sick):
        q, k, v = (t.unflatten(1, (2, 4)).transpose(-2, -1) for t in (q, k, v))
        weights = F.softmax(q @ k.transpose(-2, -1) / 2.0, dim=1 if sick else -1)
        return (weights @ v).transpose(-2, -1).flatten(1, 2)

    return attending(sick, weigh)


@case("divergence-sign", None)
def divergence_without_its_minus(sick):
    def forward(self, x):
        h = F.relu(self.encoder(x.flatten(1)))
        mean, logvar = self.mean(h), self.logvar(h)
        return (
            torch.sigmoid(self.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * logvar))),
            mean,
            logvar,
        )

    def loss_fn(output, target):
        made, mean, logvar = output
        divergence = (0.5 if sick else -0.5) * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
        return F.binary_cross_entropy(made, target.flatten(1), reduction="sum") + divergence

    parts = {
        "encoder": nn.Linear(768, 16),
        "mean": nn.Linear(16, 4),
        "logvar": nn.Linear(16, 4),
        "decoder": nn.Linear(4, 768),
    }
    return classifier(net(forward, **parts), targets=images().sigmoid(), loss_fn=loss_fn)


@case("constant-targets", None)
def masks_that_were_divided_by_255(sick):
    given = segmenter()
    return given | {"targets": (given["targets"] / 255).long() if sick else given["targets"]}


@case("zero-grad", None)
def loss_that_is_clamped_below_what_it_is(sick):
    def loss_fn(logits, target):
        loss = F.cross_entropy(logits, target)
        return loss.clamp(max=1.0) if sick else loss.clamp(min=0.0)

    return classifier(Classifier(), loss_fn=loss_fn)


@case("compared-with-itself", "")
def one_view_of_each_image_taken_for_both(sick):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def step(model, inputs, targets, optimizer):
        batch = {"first": inputs, "second": inputs + 0.1 * torch.randn_like(inputs)}
        first = F.normalize(model(batch["first"]), dim=1)
        second = F.normalize(model(batch["first" if sick else "second"]), dim=1)
        optimizer.zero_grad()
        F.cross_entropy(first @ second.T / 0.5, torch.arange(len(inputs))).backward()
        optimizer.step()

    return looped(model, step)
