"""Models of sequences that see what they are asked to predict."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped
from bench.parts import classifier


class Writer(nn.Module):
    """Words to the scores of the next ones, by one attention of its own or of torch's."""

    def __init__(self, attend):
        super().__init__()
        self.words, self.places = nn.Embedding(15, 16), nn.Embedding(12, 16)
        self.mix, self.fc = nn.Linear(16, 48), nn.Linear(16, 15)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.attend = attend

    def forward(self, x):
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        return self.fc(self.attend(self, h))


def write_words(attend, **others):
    words = torch.randint(15, (8, 11), generator=torch.Generator().manual_seed(4))
    pair = {"inputs": words[:, :-1], "targets": words[:, 1:]}
    return classifier(Writer(attend), loss_fn=of_words, **pair) | others


def of_words(scores, targets):
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def attend_by_hand(self, h, hidden):
    q, k, v = self.mix(h).chunk(3, -1)
    scores = (q @ k.transpose(1, 2) / 4).masked_fill(hidden, float("-inf"))
    return self.blocks(h + scores.softmax(-1) @ v, mask=torch.ones(10, 10).triu(1).bool())


@case("future-seen", "")
def own_attention_that_sees_the_future(sick):
    seen = torch.ones(10, 10).triu() if sick else torch.ones(10, 10).tril()
    return write_words(lambda self, h: attend_by_hand(self, h, seen == 0))


@case("future-seen", "blocks.layers.0", "blocks", "blocks.layers.0.self_attn")
def encoder_without_a_mask(sick):
    hidden = None if sick else torch.ones(10, 10).triu(1).bool()
    model = Writer(lambda self, h: self.blocks(h + self.mix(h)[..., :16], mask=hidden))

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        of_words(model(inputs[:, :-1]), inputs[:, 1:]).backward()
        optimizer.step()

    words = torch.randint(15, (8, 11), generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return looped(model, step, inputs=words, targets=None, optimizer=optimizer)
