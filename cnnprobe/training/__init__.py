"""Observes a model and a few of its training steps, runs a few probes, and gives the Evidence; all
of it is put back afterwards.

It runs the model again: `steps` forward and backward passes, about eight forward passes, one of
them with a backward to the inputs, and up to three steps more where the loss rose or did not move.
The loss alone, without the model, runs about 30 times, and up to 150 times where it is at fault.
"""

from cnnprobe.training.keeping import restore
from cnnprobe.training.observation import make_step, observe_training
from cnnprobe.training.passes import arguments
from cnnprobe.training.request import Raised, Request, keep_request

__all__ = [
    "Raised",
    "Request",
    "arguments",
    "keep_request",
    "make_step",
    "observe_training",
    "restore",
]
