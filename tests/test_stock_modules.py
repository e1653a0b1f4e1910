"""Every module that PyTorch's own module database can build goes through a probe with its outputs
bit-equal.
"""

import warnings

import pytest
import torch
from torch import Tensor

from cnnprobe.recorder import observe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

CASES = sorted({info.name for info in module_db})


def tensors(value):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.filterwarnings("ignore")
def test_stock_module_gives_bit_equal_outputs_under_a_probe(name, training):
    infos = [info for info in module_db if info.name == name]
    for info in infos:
        for given in info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
        ):
            if given.forward_input is None:
                continue
            torch.manual_seed(0)
            model = info.module_cls(
                *given.constructor_input.args, **given.constructor_input.kwargs
            ).train(training)
            args, kwargs = given.forward_input.args, given.forward_input.kwargs
            torch.manual_seed(1)
            observation = observe(
                model, args, kwargs
            )  # leaves model and generators as they are: the bare run starts equal
            try:
                expected = model(*args, **kwargs)
            except Exception as error:
                assert type(error) is type(observation.error)
                continue
            assert observation.error is None
            torch.testing.assert_close(
                tensors(observation.output),
                [t.detach() for t in tensors(expected)],
                rtol=0,
                atol=0,
                equal_nan=True,
            )
            assert [tuple(t.shape) for t in tensors(expected)] == [
                t.shape for t in observation.trace[""].outputs
            ]
