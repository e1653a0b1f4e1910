"""Models of sequences that are healthy."""

import torch
from torch import nn

from bench.design import design
from bench.parts import classifier, images


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.fc = (
            nn.Embedding(20, 16),
            nn.LSTM(16, 32, batch_first=True),
            nn.Linear(32, 4),
        )

    def forward(self, x):
        out, _ = self.lstm(self.embed(x))
        return self.fc(out[:, -1])


@design
def lstm():
    return classifier(Lstm(), inputs=torch.arange(8 * 5).view(8, 5) % 20)


class RowLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        _out, (h, _) = self.lstm(x.permute(1, 0, 2))
        return self.fc(h[-1])


@design
def lstm_over_rows_with_time_first():
    return classifier(RowLstm(), inputs=images()[:, 0])


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = (
            nn.Embedding(20, 16),
            nn.LayerNorm(16),
            nn.Linear(16, 20, bias=False),
        )
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.embed(x).mean(1))))


@design
def tied_embedding_and_decoder():
    return classifier(TiedLanguageModel(), inputs=torch.arange(40).view(8, 5) % 20)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.out, self.fc = (
            nn.Linear(16, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        n, length, _ = x.shape
        x = self.norm(self.embed(x))
        q, k, v = self.qkv(x).view(n, length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / 2).masked_fill(
            torch.triu(torch.ones(length, length, dtype=torch.bool), 1), float("-inf")
        )
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, 16))
        return self.fc(x.mean(1))


@design
def attention_with_a_mask_of_minus_infinity():
    return classifier(Attention(), inputs=images()[:, 0])


# -- rows of tables, and inputs of zeros -----------------------------------------------------------


class Levelled(nn.Module):
    """Two stages of a sequence of 4 steps; each level has a row of its own, as each position."""

    def __init__(self):
        super().__init__()
        self.inp, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.levels = nn.Parameter(torch.randn(6, 16) * 0.1)
        self.places = nn.Parameter(torch.randn(1, 20, 16) * 0.1)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        h = self.inp(x) + self.places[:, : x.shape[1]]
        for level in (3, 4):
            h = h + self.levels[level]
            h = h + self.mix(h, h, h)[0]
        return self.head(h.mean(1))


@design
def levels_with_a_row_each():
    return classifier(Levelled(), inputs=torch.randn(8, 4, 6))


class Asked(nn.Module):
    """Learnt questions are added to what the decoder is given, which begins at zero."""

    def __init__(self):
        super().__init__()
        self.source, self.out = nn.Linear(6, 16), nn.Linear(16, 4)
        self.questions = nn.Parameter(torch.randn(5, 16))
        self.read = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x, asked):
        memory = self.source(x)
        asked = asked + self.questions
        return self.out(self.read(asked, memory, memory)[0]).mean(1)


@design
def questions_that_begin_at_zero():
    model = Asked()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        output = model(inputs, torch.zeros(len(inputs), 5, 16))
        nn.functional.cross_entropy(output, targets).backward()
        optimizer.step()

    inputs = (torch.randn(8, 7, 6), torch.zeros(8, 5, 16))
    return classifier(model, inputs=inputs, optimizer=optimizer) | {
        "train_step": lambda inputs, targets: train_step(inputs[0], targets)
    }


class Cell(nn.Module):
    """One step of a state that is a sequence itself; the first state is zero."""

    def __init__(self):
        super().__init__()
        self.inp, self.state, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x, state):
        state = torch.tanh(self.inp(x) + self.state(state))
        return self.out(state.mean(1)), state


@design
def state_that_begins_at_zero_and_goes_on():
    model = Cell()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        state = torch.zeros(8, 7, 8)
        for part in inputs[0].split(6, -1):
            output, state = model(part, state)
        nn.functional.cross_entropy(output, targets).backward()
        optimizer.step()

    inputs = (torch.randn(8, 7, 6), torch.zeros(8, 7, 8))
    return classifier(model, inputs=inputs, optimizer=optimizer) | {
        "train_step": lambda inputs, targets: train_step(
            (inputs[0].repeat(1, 1, 2), inputs[1]), targets
        )
    }
