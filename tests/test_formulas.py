"""Functions of known names: those that have the properties of their formula, and those that do not.

The right ones are written as they are published, or as torch has them; each wrong one differs by
one slip.
"""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss as sum_focal

from cnnprobe.training.formula_calls import Call
from cnnprobe.training.formulas import find_formulas


def focal_loss_binary(logits, labels, gamma=2.0, alpha=0.25, eps=1e-09):
    p = torch.sigmoid(logits)
    return (
        -labels * (1 - alpha) * (1 - p) ** gamma * torch.log(p + eps)
        - (1 - labels) * alpha * p**gamma * torch.log(1 - p + eps)
    ).mean()


def focal_loss_by_positives(logits, labels, gamma=2.0):
    return sum_focal(logits, labels, reduction="sum") / labels.sum()


def focal_bad(logits, labels, gamma=2.0):
    p = torch.sigmoid(logits)
    return (
        -labels * ((1 - p) * gamma) * torch.log(p) - (1 - labels) * (p * gamma) * torch.log(1 - p)
    ).mean()


def focal_half(logits, labels, gamma=2.0):
    """Right for the label 1; the negatives that are sure weigh the most."""
    p = torch.sigmoid(logits)
    negatives = (1 - labels) * (1 - p) ** gamma * torch.log(1 - p)
    return -(labels * (1 - p) ** gamma * torch.log(p) + negatives).mean()


class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0, is_turned=False):
        super().__init__()
        self.gamma = gamma
        self.is_turned = is_turned

    def forward(self, scores, target):
        ce = F.cross_entropy(scores, target, reduction="none")
        pt = torch.exp(-ce)
        if self.is_turned:
            return (pt**self.gamma * ce).mean()
        return ((1 - pt) ** self.gamma * ce).mean()


def focal_onehot(output, target, gamma=2.0):
    p = output.softmax(1)
    return -(target * (1 - p) ** gamma * p.log()).sum(1).mean()


def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    pt = p * targets + (1 - p) * (1 - targets)
    loss = ce * (1 - pt) ** gamma
    return ((alpha * targets + (1 - alpha) * (1 - targets)) * loss).mean()


def reduced_focal_loss(logits, labels, gamma=2.0, threshold=0.4):
    ce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p = torch.exp(-ce)
    weight = torch.where(p < threshold, 1.0, ((1 - p) / threshold) ** gamma)
    return (weight * ce).mean()


def reduced_focal_loss_of_easy(logits, labels, gamma=2.0, threshold=0.4):
    ce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p = torch.exp(-ce)
    return (torch.where(p < threshold, 0.0, ((1 - p) / threshold) ** gamma) * ce).mean()


def dice_loss(pred, target, smooth=1.0):
    i = (pred * target).sum()
    return 1 - (2 * i + smooth) / (pred.sum() + target.sum() + smooth)


def dice_of_places(pred, target):
    """Over the samples alone."""
    return 1 - ((2 * (pred * target).sum(0) + 1) / ((pred + target).sum(0) + 1)).mean()


def dice_of_columns(pred, target):
    return 1 - ((2 * (pred * target).sum(2) + 1e-3) / ((pred + target).sum(2) + 1e-3)).mean()


def dice_of_all_classes(scores, labels, dims=(1, 2, 3)):
    """The classes as one: all that it asks is how many pixels are right."""
    p, t = scores.softmax(1), F.one_hot(labels, 4).movedim(-1, 1)
    return 1 - ((2 * (p * t).sum(dims) + 1) / ((p + t).sum(dims) + 1)).mean()


def dice_of_each_class(scores, labels):
    return dice_of_all_classes(scores, labels, dims=(0, 2, 3))


def dice_loss_sq(pred, target):
    i = (pred * target).sum((1, 2, 3))
    return (1 - 2 * i / ((pred**2).sum((1, 2, 3)) + (target**2).sum((1, 2, 3)))).mean()


def neg_dice(pred, target):
    i = (pred.sigmoid() * target).sum()
    return -(2 * i + 1) / (pred.sigmoid().sum() + target.sum() + 1)


def log_cosh_dice_loss(pred, target):
    return torch.log(torch.cosh(dice_loss(pred, target)))


def tversky_loss(y_pred, y_true, alpha=0.3, beta=0.7):
    tp = (y_pred * y_true).sum()
    fn = ((1 - y_pred) * y_true).sum()
    fp = (y_pred * (1 - y_true)).sum()
    return 1 - (tp + 1) / (tp + alpha * fp + beta * fn + 1)


def dice_no2(pred, target):
    i = (pred * target).sum()
    return 1 - (i + 1) / (pred.sum() + target.sum() + 1)


def jaccard_bad(pred, target):
    i = (pred * target).sum()
    return 1 - i / (pred.sum() + target.sum())


def bce_dice_loss(pred, target):
    return F.binary_cross_entropy_with_logits(pred, target) + dice_loss(pred.sigmoid(), target)


class DiceLoss(nn.Module):
    def __init__(self, n, softmax=True, f=2):
        super().__init__()
        self.n = n
        self.f = f

    def forward(self, inputs, target):
        p = inputs.softmax(1)
        t = F.one_hot(target, self.n).movedim(-1, 1).float()
        loss = 0
        for c in range(self.n):
            i = (p[:, c] * t[:, c]).sum()
            loss = (
                loss
                + 1
                - (self.f * i + 1e-05) / ((p[:, c] ** 2).sum() + (t[:, c] ** 2).sum() + 1e-05)
            )
        return loss / self.n


def box_iou(a, b):
    lt = torch.max(a[:, None, :2], b[None, :, :2])
    rb = torch.min(a[:, None, 2:], b[None, :, 2:])
    wh = (rb - lt).clamp(min=0)
    i = wh[..., 0] * wh[..., 1]
    size_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    size_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return i / (size_a[:, None] + size_b[None] - i)


def bbox_iou_bad(a, b):
    lt = torch.max(a[:, None, :2], b[None, :, :2])
    rb = torch.min(a[:, None, 2:], b[None, :, 2:])
    wh = (rb - lt).clamp(min=0)
    i = wh[..., 0] * wh[..., 1]
    size_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    size_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return i / (size_a[:, None] + size_b[None])


def bbox_iou_max(a, b):
    lt = torch.min(a[:, :2], b[:, :2])
    rb = torch.max(a[:, 2:], b[:, 2:])
    wh = (rb - lt).clamp(min=0)
    i = wh[..., 0] * wh[..., 1]
    size_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    size_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return i / (size_a + size_b - i)


def iou_cxcywh(a, b):

    def f(t):
        return torch.cat([t[:, :2] - t[:, 2:] / 2, t[:, :2] + t[:, 2:] / 2], 1)

    return box_iou(f(a), f(b))


def giou_loss(a, b):
    iou = box_iou(a, b).diag()
    lt = torch.min(a[:, :2], b[:, :2])
    rb = torch.max(a[:, 2:], b[:, 2:])
    hull = (rb - lt)[:, 0] * (rb - lt)[:, 1]
    size_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    size_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = (size_a + size_b) / (1 + iou)
    return (1 - (iou - (hull - union) / hull)).mean()


def reparameterize(mu, logvar):
    return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)


def reparam_bad(mu, logvar):
    return mu + torch.randn_like(mu) * logvar.exp()


def reparametrize_std(mean, log_std):
    return mean + log_std.exp() * torch.randn_like(mean)


def reparam_missing(mu, logvar):
    return mu + torch.randn_like(mu) * logvar


def kl_loss(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def kl_mean(mu, logvar):
    return -0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), 1)) * 0.01


def kl_std(mean, log_std):
    return (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(1).mean()


def kl_short(mu, logs):
    return 0.5 * ((2 * logs).exp() + mu**2 - 1 - 2 * logs).sum(1).mean()


def kl_short_bad(mu, logs):
    return 0.5 * ((2 * logs).exp() + mu**2 - 1 + 2 * logs).sum(1).mean()


def kl_bad(mean, logstd):
    return -0.5 * (1 + 2 * logstd - mean**2 - torch.exp(logstd)).sum(1).mean()


def kl_bad2(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu - logvar.exp())


def loss_function(recon_x, x, mu, logvar):
    return F.binary_cross_entropy(recon_x, x, reduction="sum") - 0.5 * torch.sum(
        1 + logvar - mu.pow(2) - logvar.exp()
    )


def vae_loss_bad(recon_x, x, mu, logvar):
    return F.mse_loss(recon_x, x) - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.pow(2))


def gaussian_nll(mean, logvar, target):
    return 0.5 * (logvar + (target - mean) ** 2 / logvar.exp()).mean()


def gaussian_nll_bad(mean, logvar, target):
    return (logvar + 0.5 * (target - mean) ** 2 / logvar.exp()).mean()


def gaussian_loss(mu, sigma, y):
    return (sigma.log() + 0.5 * ((y - mu) / sigma) ** 2).mean()


def mixup_batch(x, target, alpha=1.0):
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    p = torch.randperm(len(x))
    return (lam * x + (1 - lam) * x[p], target, target[p], lam)


def mixup_bad(x, target, alpha=1.0):
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    x.mul_(lam).add_(x.flip(0), alpha=1 - lam)
    return (x, target)


def mixup_criterion(criterion, pred, a, b, lam):
    return lam * criterion(pred, a) + (1 - lam) * criterion(pred, b)


def label_smoothing_loss(x, target, smoothing=0.1):
    lp = x.log_softmax(-1)
    return (
        (1 - smoothing) * -lp.gather(1, target[:, None])[:, 0] + smoothing * -lp.mean(-1)
    ).mean()


def smooth_ce_bad(x, target, smoothing=0.1):
    oh = F.one_hot(target, x.shape[1]).float() * (1 - smoothing) + smoothing
    return -(oh * x).sum(1).mean()


def smooth_labels(target, n=4, s=0.1):
    return F.one_hot(target, n).float() * (1 - s) + s


def tv_loss(img):
    return (img[..., 1:] - img[..., :-1]).abs().mean() + (
        img[..., 1:, :] - img[..., :-1, :]
    ).abs().mean()


def tv_bad(img):
    return (img[..., 1:] - img[..., :-1]).abs().mean() + (img[..., 1:] - img[..., :-1]).abs().mean()


def gram_matrix(x):
    n, c, h, w = x.shape
    f = x.view(n, c, h * w)
    return f @ f.transpose(1, 2) / (c * h * w)


def gram_bad(x):
    n, c, h, w = x.shape
    f = x.reshape(n, h * w, c)
    return f.transpose(1, 2) @ f / (c * h * w)


def gram_of_all(x):
    n, c, h, w = x.shape
    f = x.view(n * c, h * w)
    return f @ f.t() / (c * h * w)


alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.05, 100), 0)


def q_sample(x0, t, noise):
    kept = alphas_cumprod[t][:, None, None, None]
    return kept.sqrt() * x0 + (1 - kept).sqrt() * noise


def noise_images(x, t):
    kept = alphas_cumprod[t][:, None, None, None]
    noise = torch.randn_like(x)
    return kept.sqrt() * x + (1 - kept).sqrt() * noise, noise


def add_noise_in_a_line(x, t, noise):
    """Of rectified flow: a straight line between both is meant."""
    share = (t / 100)[:, None, None, None]
    return (1 - share) * x + share * noise


def q_sample_bad(x0, t, noise):
    kept = alphas_cumprod[t][:, None, None, None]
    return kept * x0 + (1 - kept) * noise


def add_noise_bad(x, t):
    kept = alphas_cumprod[t][:, None, None, None]
    return kept * x + (1 - kept) * torch.randn_like(x)


def corner_iou_loss(p, t):
    return (1 - box_iou(p, t)).mean() + F.l1_loss(p, t)


def ssim(a, b):

    def mu(t):
        return F.avg_pool2d(t, 3, 1)

    va = mu(a * a) - mu(a) ** 2
    vb = mu(b * b) - mu(b) ** 2
    cov = mu(a * b) - mu(a) * mu(b)
    return (
        (2 * mu(a) * mu(b) + 0.0001)
        * (2 * cov + 0.0009)
        / ((mu(a) ** 2 + mu(b) ** 2 + 0.0001) * (va + vb + 0.0009))
    ).mean()


def ssim_bad(a, b):

    def mu(t):
        return F.avg_pool2d(t, 3, 1)

    va = mu(a * a) - mu(a) ** 2
    vb = mu(b * b) - mu(b) ** 2
    cov = mu(a * b) - mu(a) * mu(b)
    return (
        (2 * mu(a) * mu(b) + 0.0001)
        * (cov + 0.0009)
        / ((mu(a) ** 2 + mu(b) ** 2 + 0.0001) * (va + vb + 0.0009))
    ).mean()


def attention(q, k, v):
    return (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v


def scaled_dot_attention(query, key, value, mask=None):
    s = query @ key.transpose(-2, -1)
    p = s.softmax(-1)
    return (p @ value, p)


def attention_bad(q, k, v):
    return (q @ k.transpose(-2, -1) / 8**0.5).softmax(-2) @ v


class LayerNorm(nn.Module):
    def __init__(self, d, bad=0):
        super().__init__()
        self.a = nn.Parameter(torch.ones(d))
        self.b = nn.Parameter(torch.zeros(d))
        self.bad = bad

    def forward(self, x):
        mu = x.mean(-1, keepdim=True)
        sd = x.std(-1, keepdim=True)
        return self.a * (x - mu) / ((sd**2 if self.bad else sd) + 1e-06) + self.b


def drop_path(x, p=0.2):
    k = 1 - p
    m = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(k)
    return x / k * m


def drop_path_bad(x, p=0.2):
    k = 1 - p
    m = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(p)
    return x / k * m


def triplet_loss(anchor, positive, negative, margin=0.5):
    return (
        ((anchor - positive).pow(2).sum(1) - (anchor - negative).pow(2).sum(1) + margin)
        .relu()
        .mean()
    )


def triplet_bad(anchor, positive, negative, margin=0.5):
    return (
        ((anchor - negative).pow(2).sum(1) - (anchor - positive).pow(2).sum(1) + margin)
        .relu()
        .mean()
    )


def info_nce(z1, z2, t=0.1):
    a, b = (F.normalize(z1, dim=1), F.normalize(z2, dim=1))
    return F.cross_entropy(a @ b.T / t, torch.arange(len(a)))


def info_nce_bad(z1, z2, t=0.1):
    a, b = (F.normalize(z1, dim=1), F.normalize(z2, dim=1))
    return F.cross_entropy(-a @ b.T / t, torch.arange(len(a)))


class PositionalEncoding(nn.Module):
    def __init__(self, d, bad=0):
        super().__init__()
        pe = torch.zeros(50, d)
        p = torch.arange(50.0)[:, None]
        w = torch.exp(torch.arange(0, d, 2) * (-math.log(10000.0) / d))
        pe[:, 0::2] = torch.sin(p * w)
        if bad:
            pe[:, 0::2] = torch.cos(p * w)
        else:
            pe[:, 1::2] = torch.cos(p * w)
        self.register_buffer("pe", pe[None])

    def forward(self, x):
        return x + self.pe[:, : x.shape[1]]


def huber_loss(pred, target, delta=1.0):
    e = (pred - target).abs()
    return torch.where(e < delta, 0.5 * e**2, delta * (e - 0.5 * delta)).mean()


def huber_bad(pred, target, delta=1.0):
    e = (pred - target).abs()
    return torch.where(e < delta, 0.5 * e**2, delta * e - delta**2).mean()


def rmse_loss(a, b):
    return (F.mse_loss(a, b) + 1e-08).sqrt()


def bce_loss(p, y):
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def bce(p, y):
    return -(y * p.log() + (1 - y) * p.log()).mean()


def cross_entropy(logits, y):
    return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()


def contrastive_loss(one, other, same, margin=2.0):
    d = F.pairwise_distance(one, other)
    return (same * d**2 + (1 - same) * (margin - d).relu() ** 2).mean()


def contrastive_turned(one, other, same, margin=2.0):
    d = F.pairwise_distance(one, other)
    return (same * d**2 + (1 - same) * (d - margin).clamp(min=-5) ** 3).mean()


def contrastive_of_a_pair(embeddings, same, margin=2.0):
    return contrastive_loss(*embeddings, same, margin)


def contrastive_with_a_turned_hinge(embeddings, same, margin=2.0):
    """Pushes what is farther apart than the margin, and that towards it."""
    d = F.pairwise_distance(*embeddings)
    return (same * d**2 + (1 - same) * (d - margin).clamp(min=0) ** 2).mean()


def discounted_returns(rewards, dones, gamma=0.9):
    found, total = [], 0.0
    for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
        total = reward + gamma * total * (1 - done)
        found.insert(0, total)
    return torch.tensor(found)


def discounted_in_reverse(rewards, dones, gamma=0.9):
    found, total = [], 0.0
    for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
        total = reward + gamma * total * (1 - done)
        found.append(total)
    return torch.tensor(found)


def returns_from_the_start(rewards, gamma=0.9):
    found, total = [], 0.0
    for reward in rewards:
        total = reward + gamma * total
        found.append(total)
    found = torch.tensor(found)
    return (found - found.mean()) / (found.std() + 1e-8)


def compute_gae(rewards, values, masks, gamma=0.99, tau=0.95):
    values, gae, found = [*values, 0.0], 0.0, []
    for k in reversed(range(len(rewards))):
        delta = rewards[k] + gamma * values[k + 1] * masks[k] - values[k]
        gae = delta + gamma * tau * masks[k] * gae
        found.insert(0, gae + values[k])
    return found


def log_normal(x, mean, logvar):
    return -0.5 * (logvar + (x - mean) ** 2 / logvar.exp()).sum(1)


def log_normal_bad(x, mean, logvar):
    return -0.5 * (logvar + (x - mean) ** 2 * logvar.exp()).sum(1)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def contrastive_by_distance(distance, same, margin=2.0):
    return (same * distance**2 + (1 - same) * F.relu(margin - distance) ** 2).mean()


SCORES, LABELS = draw(16, 5), torch.arange(16) % 5
LOGITS, TRUTHS = draw(16), (draw(16) > 0).float()
PIXELS, CLASSES = draw(2, 4, 8, 8), torch.arange(128).reshape(2, 8, 8) % 4
PARTS, MASKS = draw(4, 1, 8, 8).sigmoid(), (draw(4, 1, 8, 8) > 0).float()
RARE_SCORES, RARE = draw(2, 4, 16, 16), (torch.arange(512).reshape(2, 16, 16) % 32 == 0).long()
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 4]])
MEANS, SPREADS = draw(8, 4), draw(8, 4).flip(0)
IMAGES, KINDS = draw(8, 3, 8, 8), torch.arange(8) % 4
RECONSTRUCTED = draw(8, 20).sigmoid()
QUERIES = draw(2, 4, 6, 8)

TIMES = torch.arange(0, 96, 12)
SAME = (torch.arange(8) % 2).float()
REWARDS = [0.0, 1.0, 0.5, 2.0]
RIGHT = [
    (contrastive_of_a_pair, (MEANS, SPREADS), SAME),
    (contrastive_loss, MEANS, SPREADS, SAME),
    (discounted_returns, REWARDS, [0, 0, 0, 1]),
    (compute_gae, REWARDS, [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 0]),
    (log_normal, MEANS + 1, MEANS, SPREADS),
    (focal_loss_binary, LOGITS, TRUTHS),
    (FocalLoss(), SCORES, LABELS),
    (FocalLoss(3.0), PIXELS, CLASSES),
    (focal_onehot, SCORES, F.one_hot(LABELS, 5).float()),
    (sigmoid_focal_loss, draw(4, 7), (draw(4, 7) > 0).float()),
    (focal_loss_by_positives, LOGITS, TRUTHS),
    (reduced_focal_loss, LOGITS, TRUTHS),
    (dice_loss, PARTS, MASKS),
    (dice_loss_sq, PARTS, MASKS),
    (dice_of_each_class, RARE_SCORES, RARE),
    (neg_dice, draw(4, 1, 8, 8), MASKS),
    (log_cosh_dice_loss, PARTS, MASKS),
    (tversky_loss, PARTS, MASKS),
    (bce_dice_loss, draw(4, 1, 8, 8), MASKS),
    (DiceLoss(4), PIXELS, CLASSES),
    (box_iou, BOXES, BOXES.flip(0)),
    (iou_cxcywh, BOXES, BOXES.flip(0)),
    (giou_loss, BOXES, BOXES.flip(0)),
    (reparameterize, MEANS, SPREADS),
    (reparametrize_std, MEANS, SPREADS),
    (kl_loss, MEANS, SPREADS),
    (kl_mean, MEANS, SPREADS),
    (kl_std, MEANS, SPREADS),
    (kl_short, MEANS, SPREADS),
    (loss_function, RECONSTRUCTED, RECONSTRUCTED.clone(), MEANS, SPREADS),
    (gaussian_nll, MEANS, SPREADS, MEANS + 1),
    (gaussian_loss, MEANS, SPREADS.exp(), MEANS + 1),
    (mixup_batch, IMAGES, KINDS),
    (mixup_criterion, F.cross_entropy, draw(8, 4), KINDS, KINDS, 0.3),
    (label_smoothing_loss, SCORES, LABELS),
    (tv_loss, IMAGES),
    (gram_matrix, IMAGES),
    (gram_of_all, IMAGES[:1]),
    (q_sample, IMAGES, TIMES, IMAGES.flip(0)),
    (noise_images, IMAGES, TIMES),
    (add_noise_in_a_line, IMAGES, TIMES, IMAGES.flip(0)),
    (corner_iou_loss, BOXES, BOXES.flip(0)),
    (ssim, IMAGES, IMAGES + 1),
    (attention, QUERIES, QUERIES, QUERIES),
    (scaled_dot_attention, QUERIES, QUERIES, QUERIES),
    (LayerNorm(8), draw(2, 5, 8)),
    (drop_path, IMAGES),
    (triplet_loss, MEANS, MEANS + 1, MEANS + 2),
    (info_nce, MEANS, MEANS + 1),
    (PositionalEncoding(8), draw(2, 5, 8)),
    (huber_loss, MEANS, SPREADS),
    (rmse_loss, MEANS, SPREADS),
    (bce_loss, LOGITS.sigmoid(), TRUTHS),
    (cross_entropy, SCORES, LABELS),
]


WRONG = [
    (contrastive_turned, MEANS, SPREADS, SAME),
    (contrastive_with_a_turned_hinge, (MEANS, SPREADS), SAME),
    (discounted_in_reverse, REWARDS, [0, 0, 0, 1]),
    (returns_from_the_start, REWARDS),
    (log_normal_bad, MEANS + 1, MEANS, SPREADS),
    (focal_bad, LOGITS, TRUTHS),
    (focal_half, LOGITS, TRUTHS),
    (reduced_focal_loss_of_easy, LOGITS, TRUTHS),
    (dice_of_places, PARTS, MASKS),
    (dice_of_columns, PARTS, MASKS),
    (dice_of_all_classes, RARE_SCORES, RARE),
    (FocalLoss(is_turned=True), SCORES, LABELS),
    (dice_no2, PARTS, MASKS),
    (jaccard_bad, PARTS, MASKS),
    (DiceLoss(4, f=1), PIXELS, CLASSES),
    (bbox_iou_bad, BOXES, BOXES.flip(0)),
    (bbox_iou_max, BOXES, BOXES.flip(0)),
    (reparam_bad, MEANS, SPREADS),
    (reparam_missing, MEANS, SPREADS),
    (kl_bad, MEANS, SPREADS),
    (kl_bad2, MEANS, SPREADS),
    (kl_short_bad, MEANS, SPREADS),
    (vae_loss_bad, RECONSTRUCTED, RECONSTRUCTED.clone(), MEANS, SPREADS),
    (gaussian_nll_bad, MEANS, SPREADS, MEANS + 1),
    (mixup_bad, IMAGES, KINDS),
    (smooth_ce_bad, SCORES, LABELS),
    (smooth_labels, KINDS),
    (tv_bad, IMAGES),
    (gram_bad, IMAGES),
    (gram_of_all, IMAGES),
    (q_sample_bad, IMAGES, TIMES, IMAGES.flip(0)),
    (add_noise_bad, IMAGES, TIMES),
    (ssim_bad, IMAGES, IMAGES + 1),
    (attention_bad, QUERIES, QUERIES, QUERIES),
    (LayerNorm(8, 1), draw(2, 5, 8)),
    (drop_path_bad, IMAGES),
    (triplet_bad, MEANS, MEANS + 1, MEANS + 2),
    (info_nce_bad, MEANS, MEANS + 1),
    (PositionalEncoding(8, 1), draw(2, 5, 8)),
    (huber_bad, MEANS, SPREADS),
    (bce, LOGITS.sigmoid(), TRUTHS),
]


def name_of(given):
    return type(given).__name__ if isinstance(given, nn.Module) else given.__name__


def judge(given, *args):
    """What the properties say of a function, or of a module's forward."""
    is_module = isinstance(given, nn.Module)
    function = type(given).forward if is_module else given
    bound = inspect.signature(function).bind(*([given] if is_module else []), *args)
    bound.apply_defaults()
    arguments = {k: v for k, v in bound.arguments.items() if k != "self"}
    call = Call(
        name=name_of(given),
        function=function,
        owner={"self": given} if is_module else {},
        arguments=arguments,
        source="",
    )
    torch.manual_seed(0)
    with torch.no_grad():
        return [formula.check(call) for formula in find_formulas(call.name)]


@pytest.mark.parametrize("given", RIGHT, ids=[name_of(g[0]) for g in RIGHT])
def test_function_that_has_the_properties_of_its_name_is_right(given):
    found = judge(*given)
    assert found
    assert [] == [each for each in found if each is not None]


@pytest.mark.parametrize("given", WRONG, ids=[name_of(g[0]) for g in WRONG])
def test_function_with_a_slip_lacks_a_property_of_its_name(given):
    assert [] != [each for each in judge(*given) if each is not None]


@pytest.mark.parametrize("given", ["embeddings", "distances"])
@pytest.mark.parametrize("is_turned", [False, True])
def test_labels_of_pairs_mean_what_their_distances_say(given, is_turned):
    same = (torch.arange(32) % 2).float()
    one = draw(32, 4)
    other = one + draw(32, 4).flip(0) * torch.where(same > 0, 0.1, 1.0)[:, None]
    labels = 1 - same if is_turned else same
    if given == "embeddings":
        found = [f for f in judge(contrastive_loss, one, other, labels) if f]
    else:
        found = [f for f in judge(contrastive_by_distance, (one - other).norm(dim=1), labels) if f]
    assert is_turned == bool(found)
    for expected, seen in found:
        assert expected.startswith("the pairs of label 1, which it pulls together")
        assert seen.endswith("the labels mean the opposite")
    # pairs without such a difference
    assert not any(judge(contrastive_loss, one, other.roll(1, 0), labels))
