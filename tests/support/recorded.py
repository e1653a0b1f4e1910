"""Recorded traces."""

from cnnprobe.recorder import observe


def trace_of(model, *args, **kwargs):
    return observe(model, args, kwargs).trace
