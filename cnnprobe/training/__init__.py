"""Observes a model and a few of its training steps, runs a few probes, and gives the Evidence; all of it is put back afterwards.

It runs the model again: `steps` forward and backward passes, about six forward passes, and up to three steps more where the loss rose or did not move.
"""

from cnnprobe.training.observation import Request, observe_training

__all__ = ["Request", "observe_training"]
