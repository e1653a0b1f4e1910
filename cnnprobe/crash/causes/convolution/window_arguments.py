import ast
import copy

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.frames import list_calls
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.windows import get_call_window
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL
from cnnprobe.operations import find_function

_KERNELS = (2, 3, 4)  # of poolings, the most usual first

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3, padding=1)
          self.fc = nn.Linear(8 * 4 * 4, 2)
      def forward(self, x):
-         x = F.max_pool2d(F.relu(self.conv(x)))
+         x = F.max_pool2d(F.relu(self.conv(x)), 2)
          return self.fc(x.flatten(1))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write F.max_pool2d(F.relu(self.conv(x)), 2)")


@cause("CP027", "window-arguments", EXAMPLE, family="call-signature", prior=90)
def window_arguments(crash: Crash) -> Suspects:
    """A pooling or a convolution lacks its kernel size, or has a padding that does not fit it.

    Why it happens: F.max_pool2d has no default kernel size. A window that lies in the padding
    alone has no maximum, which torch refuses. output_padding only chooses between the sizes that
    a stride leaves open.
    What to do: give the kernel size: F.max_pool2d(x, 2). Keep a pooling's padding at
    kernel_size / 2 or less, and output_padding below the stride (or the dilation).
    Known exceptions: the adaptive poolings take the size of their output instead.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.max_pool2d.html
    """
    if crash.leaf is None and crash.call is not None and isinstance(crash.error, TypeError):
        yield from _suspect_missing_kernel(crash)
    yield from _suspect_padding(crash)


def _suspect_missing_kernel(crash: Crash) -> Suspects:
    """F.max_pool2d(x): the least kernel with which the forward passes is tried first."""
    method = find_failing_method(crash)
    for call in list_calls(crash.error) if method is not None else ():
        name = ast.unparse(call.func).rpartition(".")[2]
        info = find_function(name)
        takes_kernel = info is not None and info.signature.names[1:2] == ("kernel_size",)
        is_given = any(k.arg in ("kernel_size", None) for k in call.keywords)
        if method is None or not takes_kernel or len(call.args) > 1 or is_given:
            continue
        candidates = []
        for kernel in _KERNELS:  # the least with which the forward passes is tried first
            filled = copy.deepcopy(call)
            filled.args.append(ast.Constant(kernel))
            edit = replace_node(method, call, ast.unparse(filled))
            weight = USUAL if kernel == _KERNELS[0] else POSSIBLE
            candidates += [propose(edit, weight=weight)] if edit is not None else []
        message = f"{name} was called without its kernel size"
        yield blame(method.fqn, message, *candidates, arithmetic=f"{name}(input, kernel_size, ...)")
        return


def _suspect_padding(crash: Crash) -> Suspects:
    call = crash.call
    window = get_call_window(crash, call) if call is not None else None
    if call is None or window is None:
        return
    dims = zip(window.extra, window.stride, window.dilation, strict=False)
    if window.is_padding_wrong:
        setting, value, most = "padding", window.padding[0] // 2, window.kernel[0] // 2
        why = f"at most half of its kernel size {window.kernel[0]} is valid"
    elif any(extra >= max(stride, dilation) for extra, stride, dilation in dims):
        setting, value = "output_padding", max(window.extra)
        most = max(window.stride[0], window.dilation[0]) - 1
        why = f"it has to be less than the stride {window.stride[0]} or the dilation"
    else:
        return
    edits = [configure(crash, call.fqn, **{setting: most})] if call.fqn is not None else []
    yield blame(
        call.fqn if call.fqn is not None else crash.owner,
        f"{crash.describe_call(call)} has {setting} {value}, but {why}",
        *(propose(edit, weight=STRONG) for edit in edits),
        arithmetic=f"{setting} {value} > {most}",
    )
