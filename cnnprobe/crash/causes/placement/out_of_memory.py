import contextlib

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import STAGES, Crash, Example, Suspects, blame, cause
from cnnprobe.loading.memory import format_binary, read_available_bytes
from cnnprobe.records.trace import TensorInfo

_KINDS = (RuntimeError, torch.OutOfMemoryError, MemoryError)
_PROGRAM = """
- model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2**22))
+ model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2))
  args = (torch.randn(1, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="1", is_tried=False, on_meta=False)


@cause("CP0J9", "out-of-memory", EXAMPLE, stage=STAGES[:4], prior=980, decides=True)
def out_of_memory(crash: Crash) -> Suspects:
    """The device has no room for what an operation makes.

    Why it happens: training keeps the activations of every layer for the backward, gradients, and
    what the optimizer keeps of each parameter. All but the last two grow with the batch and with
    the area of the image.
    What to do: cnnprobe.memory says the largest batch that fits, and what checkpointing or bfloat16
    saves. Where nothing is trained, torch.no_grad() keeps no activation.
    Known exceptions: another process may hold the device's memory.
    Source: torch.OutOfMemoryError; torch "CUDA semantics", memory management.
    """
    call, made = (crash.call, _make_on_meta(crash)) if crash.stage == "forward" else (None, None)
    free, room = _read_room(crash)
    is_too_large = made is not None and free is not None and made.nbytes > free
    if not (is_too_large or is_out_of_memory(crash.error)):
        return
    stage = "the optimizer's step" if crash.stage == "step" else f"the {crash.stage}"
    needs = "needs more memory than there is"
    if made is not None:
        dtype = str(made.dtype).removeprefix("torch.")
        needs = f"makes {tuple(made.shape)} {dtype}: {format_binary(made.nbytes)}"
    yield blame(
        call.fqn if call is not None else None,
        f"{stage if call is None else crash.describe_call(call)} {needs}{room}",
        *_list_advice(crash, made, free),
        arithmetic=_multiply(made),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused. On the CPU torch has no class of its own for that."""
    return isinstance(error, _KINDS[1:]) or "DefaultCPUAllocator" in str(error)


def _make_on_meta(crash: Crash) -> Tensor | None:
    """What the failing layer would give, without its memory."""
    if type(crash.error) not in _KINDS or (module := crash.leaf) is None or not crash.inputs:
        return None
    own = (*module.named_parameters(), *module.named_buffers())
    bare = {name: tensor.detach().to("meta") for name, tensor in own}
    made = None
    with torch.no_grad(), contextlib.suppress(Exception):  # the layer refuses what it was given
        made = torch.func.functional_call(module, bare, tuple(map(_to_meta, crash.inputs)))
    return made if isinstance(made, Tensor) and made.numel() else None


def _to_meta(info: TensorInfo) -> Tensor:
    return torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="meta")


def _read_room(crash: Crash) -> tuple[int | None, str]:
    """Free bytes of the device, and what is said of them."""
    given = [t.device for t in tree_leaves((crash.args, crash.kwargs)) if isinstance(t, Tensor)]
    device = next(iter([*(p.device for p in crash.parameters), *given]), torch.device("cpu"))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        said = f"; {device} has {format_binary(total)}, of which {format_binary(free)} are free"
        return free, said
    free_here = read_available_bytes(device)
    return free_here, f"; {format_binary(free_here)} are free" if free_here is not None else ""


def _multiply(made: Tensor | None) -> str:
    if made is None:
        return ""
    sizes = " x ".join(map(str, made.shape))
    one = format_binary(made.nbytes // made.shape[0]) if made.dim() else ""
    return f"{sizes} x {made.itemsize} bytes" + (f"; {one} for one sample" if one else "")


def _list_advice(crash: Crash, made: Tensor | None, free: int | None) -> list[str]:
    if made is not None and made.dim() and free is not None and made.nbytes // made.shape[0] > free:
        return ["use a smaller input or layer: one sample of this alone does not fit"]
    advice = ["use a smaller batch or input: cnnprobe.memory(model, x, fits=...) says what fits"]
    if torch.is_grad_enabled():
        if crash.stage == "forward":
            advice.append("put torch.no_grad() around it, if nothing is trained")
        advice.append("train under bfloat16 autocast, or checkpoint the blocks that keep most")
    return advice
