from cnnprobe.crash.cause import USUAL, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import change_input, change_tensor, is_root_input
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.placement import (
    BY_INDEX,
    cast_to,
    find_odd_dtype,
    find_usual_dtype,
    list_own,
)
from cnnprobe.crash.facts.words import is_floating, operation

_BYTES = """
  model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
- args = (torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8),)
+ args = (torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8).float() / 255,)
"""
BYTES = Example(_BYTES, blames="0", repair="x.float()")


@cause("CP067", "input-dtype", BYTES, prior=999)
def input_dtype(crash: Crash) -> Suspects:
    """The input has another dtype than the layers compute in.

    Why it happens: numpy arrays are float64 and images uint8, while parameters are float32.
    What to do: pass x.float(), and scale bytes by / 255.
    Known exceptions: an embedding looks integers up, and expects them.
    Source: torch docs, Tensor Attributes, "torch.dtype".
    """
    odd, call = find_odd_dtype(crash), crash.call
    if odd is None or call is None:
        yield from _explain_integers(crash)
        return
    usual = find_usual_dtype(crash, odd.wanted, outside=call.fqn or "")
    if call.fqn is not None and odd.wanted != usual and is_floating(odd.info.dtype):
        return  # it is the layer that is odd
    x, root = odd.info, crash.find_root(odd.info)
    if root is None or root.dtype != x.dtype or not is_root_input(crash, x):
        return
    edit = change_tensor(crash, x, *cast_to(crash, x, odd.wanted))
    is_image = x.dtype == "uint8"
    message = (
        f"the input is {x.dtype}, but {crash.describe_module(odd.module)} computes in "
        f"{odd.wanted}" + ("; scale the bytes of an image too, by / 255" if is_image else "")
    )
    arithmetic = f"expected {odd.wanted}, got {x.dtype} {x.shape}"
    yield blame(odd.module, message, edit, arithmetic=arithmetic)


def _explain_integers(crash: Crash) -> Suspects:
    """Integers where no layer looks anything up."""
    x, call = next(iter(crash.root_inputs), None), crash.call
    if x is None or call is None or not call.inputs or isinstance(crash.leaf, BY_INDEX):
        return
    is_integer = not is_floating(x.dtype) and not x.dtype.startswith("complex")
    if not is_integer or is_floating(call.inputs[0].dtype) or list_own(crash):
        return
    if x.dtype == "bool" and call.fqn is None and operation(call) in ("__rsub__", "sub", "neg"):
        other = rewrite_call(
            crash, call, lambda _func, args, _: ~args[0], title="write ~mask at {place}", code="~x"
        )
        edits = (other, change_input(lambda t: t.float(), "{x}.float()"))
        message = (
            f"{crash.describe_call(call)} got bool: a mask is negated by ~mask, not by 1 - mask"
        )
        yield blame(
            crash.owner, message, *edits, arithmetic=f"got bool {x.shape}", needs_proof=True
        )
        return
    # Not for sure: most functions take integers too.
    yield blame(
        call.fqn if call.fqn is not None else crash.owner,
        f"the input is {x.dtype}, but {crash.describe_call(call)} expects floating-point numbers",
        propose(change_input(lambda t: t.float(), "{x}.float()")),
        arithmetic=f"got {x.dtype} {x.shape}",
        needs_proof=True,
        weight=USUAL,
    )
