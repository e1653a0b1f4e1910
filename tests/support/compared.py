"""Models that are compared."""

import torch


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [
            (module.training, dict(module.__dict__), dict(module._forward_hooks))
            for module in model.modules()
        ],
        [(p.grad, p.requires_grad, p._version) for p in model.parameters()],
    )
