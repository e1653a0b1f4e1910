"""The rules whose fix is written by what writes that of another, which a program proves."""

WRITTEN_AS = {
    "cannot-overfit": "lr-too-low",
    "divergence": "lr-too-high",
    "exponential-loss": "loss-activation-mismatch",
    "exploding-activation": "vanishing-activation",
    "exploding-gradient": "vanishing-activation",
    "idle-optimizer": "step-missing",
    "inplace-skip": "input-mutated",
    "loss-not-decreasing": "lr-too-low",
    "minimised-similarity": "loss-sign",
    "one-sided-residual": "loss-activation-mismatch",
    "saturated-activation": "vanishing-activation",
    "softmax-over-queries": "softmax-dim",
    "squashed-distance": "loss-activation-mismatch",
    "train-eval-gap": "bn-momentum-zero",
    "zero-grad": "dead-relu",
}
