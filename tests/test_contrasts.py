"""Losses that compare the samples of a batch with one another, and a student with its teacher."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4
EYE = torch.eye(8, dtype=torch.bool)


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6))


def find(name, loss_fn):
    """The findings of a rule for a loss of codes and labels."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    report = cnnprobe.diagnose(
        model, IMAGES, LABELS, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    assert report.error is None
    return [finding for finding in report.findings if finding.rule == name]


def sum_likenesses(codes, change=lambda likeness: likeness, other=None):
    """The cross entropy of each code's likenesses, where the next code is the positive."""
    codes = F.normalize(codes, dim=1)
    likeness = torch.matmul(codes, (codes if other is None else other).t()) / 0.2
    return F.cross_entropy(change(likeness), torch.arange(8).roll(1))


def take_others(likeness):
    """The matrix without its diagonal."""
    return likeness[~EYE].view(8, 7) @ torch.eye(7, 8)


@pytest.mark.parametrize(
    ("loss_fn", "is_found"),
    [
        (lambda codes, _y: sum_likenesses(codes), True),
        (lambda codes, _y: sum_likenesses(codes, lambda s: s.log_softmax(1)), True),
        (lambda codes, _y: (codes @ codes.T).logsumexp(1).mean(), True),
        (lambda codes, _y: sum_likenesses(codes, lambda s: s.masked_fill(EYE, -9.0)), False),
        (lambda codes, _y: sum_likenesses(codes, lambda s: s - 1e9 * EYE), False),
        (lambda codes, _y: sum_likenesses(codes, lambda s: s.fill_diagonal_(-9.0)), False),
        (lambda codes, _y: sum_likenesses(codes, take_others), False),
        (lambda codes, _y: sum_likenesses(codes, other=F.normalize(codes.roll(1, 1))), False),
    ],
)
def test_likeness_of_each_sample_to_itself_in_a_softmax_is_found(loss_fn, is_found):
    found = find("compared-with-itself", loss_fn)
    assert is_found == bool(found)
    assert all("of 8 codes to the same 8" in finding.message for finding in found)


@pytest.mark.parametrize("way", ["nearest", "farthest", "masked"])
def test_positive_that_is_the_sample_itself_is_found(way):
    def loss_fn(codes, labels):
        distances = torch.cdist(codes, codes)
        others = 1e6 * (labels[:, None] != labels).float()
        if way == "masked":
            others = others + 1e6 * EYE
        far = way == "farthest"
        chosen = (distances - others).max(1) if far else (distances + others).min(1)
        return (chosen.values - distances.mean(1) + 1).relu().mean()

    assert (way == "nearest") == bool(find("compared-with-itself", loss_fn))


def weigh_ratio(logits, labels, old):
    """The surrogate of PPO, of the actions that the labels name."""
    picked = [F.log_softmax(each, 1)[torch.arange(8), labels] for each in (logits, old)]
    return -((picked[0] - picked[1]).exp() * torch.linspace(-1, 1, 8)).mean()


@pytest.mark.parametrize(
    ("old", "is_found"),
    [
        (lambda codes: codes.clone(), True),
        (lambda codes: codes.detach(), False),  # a ratio whose gradient is that of the logarithm
        (lambda codes: codes.roll(1, 0), False),
    ],
)
def test_difference_of_two_results_that_are_the_same_is_found(old, is_found):
    found = find("compared-with-itself", lambda codes, y: weigh_ratio(codes, y, old(codes)))
    assert is_found == bool(found)
    assert all("the difference of shape (8,) is 0" in finding.message for finding in found)


def measure_prototypes(codes, labels):
    kinds = labels.unique()
    centers = torch.stack([codes[labels == kind].mean(0) for kind in kinds])
    return F.cross_entropy(-torch.cdist(codes, centers).square(), torch.searchsorted(kinds, labels))


def test_prototypes_of_a_batch_of_one_class_are_told_by_the_sampler():
    (found,) = find("loss-activation-mismatch", lambda c, y: measure_prototypes(c, 0 * y))
    assert "the batch holds a single class" in found.message
    assert "see what the sampler chooses" in found.fix
    assert not find("loss-activation-mismatch", measure_prototypes)


CENTERS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("measure", "is_found"),
    [
        (lambda codes: torch.cdist(codes, CENTERS), True),
        (lambda codes: torch.cdist(codes, CENTERS).square() / 2, True),
        (lambda codes: (codes[:, None] - CENTERS[None]).pow(2).sum(-1), True),
        (lambda codes: (codes[:, None] - CENTERS[None]).norm(dim=2), True),
        (lambda codes: -torch.cdist(codes, CENTERS), False),
        (lambda codes: torch.cdist(codes, CENTERS) * -0.5, False),
        (lambda codes: 5 - torch.cdist(codes, CENTERS), False),
        (lambda codes: codes @ CENTERS.T, False),
    ],
)
def test_cross_entropy_of_distances_is_found(measure, is_found):
    found = find("loss-activation-mismatch", lambda c, y: F.cross_entropy(measure(c), y))
    assert is_found == bool(found)
    assert all("the class that is farthest away wins" in finding.message for finding in found)
    found = find("loss-activation-mismatch", lambda c, y: F.nll_loss(measure(c).log_softmax(1), y))
    assert is_found == bool(found)


def test_masks_that_a_step_calls_m_are_the_targets():
    model = nn.Conv2d(1, 1, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train_step(x, m):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(x), m).backward()
        optimizer.step()

    masks = (IMAGES > 0).float()
    report = cnnprobe.diagnose(
        model, IMAGES, masks, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    assert report.error is None


def test_argument_of_a_loss_that_is_only_given_anew_is_found():
    def compare(one, other):
        one = F.normalize(one, dim=1)
        other = F.normalize(other, dim=1)
        return F.cross_entropy(one @ one.T / 0.2 - 1e9 * torch.eye(8), torch.arange(8).roll(1))

    def compare_both(one, other):
        one = F.normalize(one, dim=1)
        shown = F.normalize(one, dim=1)  # noqa: F841
        return F.cross_entropy(one @ other.T / 0.2, torch.arange(8))

    (found,) = find("dead-output", lambda codes, _y: compare(codes, codes.roll(1, 1)))
    assert "nothing reads other afterwards" in found.message
    assert not find("dead-output", lambda codes, _y: compare_both(codes, codes.roll(1, 1)))


@pytest.mark.parametrize(
    ("mine", "wanted", "said"),
    [
        (1.0, 4.0, "logits divided by 1 with targets whose logits are divided by 4"),
        (3.0, 1.0, "logits divided by 3 with targets whose logits are divided by 1"),
        (3.0, None, "logits divided by 3 with targets whose logits are divided by 1"),
        (None, 4.0, "logits divided by 1 with targets whose logits are divided by 4"),
        (None, None, ""),
        (4.0, 4.0, ""),
        (1.0, 0.5, ""),  # sharpened on purpose
    ],
)
def test_temperature_of_one_side_alone_is_found(mine, wanted, said):
    teacher = perceptron()

    def soften(logits, temperature):
        return logits if temperature is None else logits / temperature

    def loss_fn(output, _labels):
        with torch.no_grad():
            targets = F.softmax(soften(teacher(IMAGES), wanted), dim=1)
        return F.kl_div(F.log_softmax(soften(output, mine), dim=1), targets, reduction="batchmean")

    found = find("temperature-on-one-side", loss_fn)
    assert bool(said) == bool(found)
    assert all(said in finding.message for finding in found)


def test_number_that_a_step_has_a_default_for_is_no_target():
    model = perceptron()

    def train_step(images, labels, T=4.0):
        assert (T, labels.shape) == (4.0, LABELS.shape)
        F.cross_entropy(model(images) / T, labels).backward()

    report = cnnprobe.diagnose(model, IMAGES, LABELS, train_step=train_step, trials=0, steps=1)
    assert report.error is None


def act(logits, labels, sign=1.0, rewards=None, shift=0.0):
    """The loss of a policy, of the actions that the labels name, with rewards of either sign."""
    chosen = torch.distributions.Categorical(logits=logits).log_prob(labels)
    rewards = torch.linspace(-1, 1, 8) if rewards is None else rewards
    return sign * (chosen * rewards).mean() + shift * logits.square().mean()


def pay(logits, labels):
    chosen = torch.log_softmax(logits, 1)[torch.arange(8), labels]
    costs = torch.linspace(-1, 1, 8)
    return (chosen * costs).mean()


@pytest.mark.parametrize(
    ("loss_fn", "is_found"),
    [
        (act, True),
        (lambda logits, y: act(logits, y, shift=0.5), True),
        (lambda logits, y: -act(logits, y, sign=-1.0), True),
        (lambda logits, y: act(logits, y, sign=-1.0), False),
        (lambda logits, y: -act(logits, y), False),
        (pay, False),
    ],
)
def test_policy_that_is_trained_away_from_its_rewards_is_found(loss_fn, is_found):
    found = find("minimised-likelihood", loss_fn)
    assert is_found == bool(found)
    assert all("rewarded actions less likely" in finding.message for finding in found)


@pytest.mark.parametrize("passes", [False, True])
def test_weights_that_are_rounded_are_told_by_what_rounds_them(passes):
    class Rounded(nn.Linear):
        def forward(self, x):
            rounded = (self.weight * 8).round() / 8
            if passes:
                rounded = self.weight + (rounded - self.weight).detach()
            return F.linear(x, rounded, self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Rounded(64, 16), nn.ReLU(), nn.Linear(16, 4))
    report = cnnprobe.diagnose(
        model, IMAGES, LABELS, loss_fn=nn.CrossEntropyLoss(), trials=0, steps=3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
    )  # fmt: skip
    found = [f for f in report.findings if f.rule == "zero-grad"]
    assert passes != bool(found)
    assert all("the derivative of Tensor.round is 0" in f.message for f in found)


class Speaker(nn.Module):
    """Words of a picture, from words; `code` loses their steps on the way."""

    def __init__(self, code=False):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out, self.code = nn.Embedding(9, 8), nn.Linear(8, 9), code
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, words):
        given, last = self.rnn(self.words(words))
        if self.code:
            given = last[0][:, None].repeat(1, words.shape[1], 1)
        return self.out(given)


WORDS = torch.randint(9, (8, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "given", "wanted", "is_found"),
    [
        (Speaker(), lambda w: w, lambda w: w, True),
        (Speaker(), lambda w: w[:, :-1], lambda w: w[:, 1:], False),
        (Speaker(), lambda w: w.masked_fill(w == 3, 0), lambda w: w, False),
        (Speaker(code=True), lambda w: w, lambda w: w, False),  # a code of the whole sequence
    ],
)
def test_words_that_are_the_targets_of_their_own_steps_are_found(model, given, wanted, is_found):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(inputs):
        optimizer.zero_grad()
        scores = model(given(inputs))
        F.cross_entropy(scores.flatten(0, 1), wanted(inputs).flatten()).backward()
        optimizer.step()

    report = cnnprobe.diagnose(
        model, WORDS, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    assert report.error is None
    found = [f for f in report.findings if f.rule == "future-seen"]
    assert is_found == bool(found)
    assert all("at the same 6 steps: the model copies its input" in f.message for f in found)
