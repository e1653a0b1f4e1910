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
