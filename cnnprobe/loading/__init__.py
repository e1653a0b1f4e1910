"""What a command line names, made into objects: a SPEC into a model, a checkpoint into its weights,
a shape or a file into inputs.

A SPEC of Python code runs that code by design. A file of weights or of inputs never runs code,
unless `trust_pickle` says so.
"""

from cnnprobe.loading.arguments import parse_arguments
from cnnprobe.loading.checkpoints import load_weights
from cnnprobe.loading.defaults import make_default_inputs
from cnnprobe.loading.inputs import load_file, load_inputs, parse_device, parse_dtype, parse_shape
from cnnprobe.loading.models import load_model
from cnnprobe.loading.user_errors import TargetWarning

__all__ = [
    "TargetWarning",
    "load_file",
    "load_inputs",
    "load_model",
    "load_weights",
    "make_default_inputs",
    "parse_arguments",
    "parse_device",
    "parse_dtype",
    "parse_shape",
]  # fmt: skip
