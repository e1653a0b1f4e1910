"""A tensor that was asked for a key."""

import ast
from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(8, 3)


    def run(model):
        out = model(torch.randn(4, 8))
        return F.cross_entropy(out["logits"], torch.tensor([0, 1, 2, 0]))
    """,
    old='out["logits"]',
    new="out",
    blames=None,
    repair="write out instead of out['logits']",
)


@cause(
    code="CP0A2",
    name="key-of-tensor",
    stage="loss",
    family="call-signature",
    prior=800,
    examples=EXAMPLE,
)
def key_of_tensor(crash: Crash) -> Iterator[Suspect]:
    """A tensor was asked for a key, as if the model returned a dict.

    Why it happens: models of other libraries return a dict or an object; this one returns the
    tensor itself.
    What to do: use the tensor, without the key.
    Known exceptions: none.
    Source: PyTorch, torch.Tensor.__getitem__.
    """
    if not isinstance(crash.error, IndexError | TypeError):
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Subscript)):
        if not isinstance(node.slice, ast.Constant) or not isinstance(node.slice.value, str):
            continue
        value, name = line.evaluate(node.value), ast.unparse(node.value)
        if isinstance(value, Tensor):
            yield _suspect(crash, node, name, value)
            return


def _suspect(crash: Crash, node: ast.Subscript, name: str, value: Tensor) -> Suspect:
    shape = tuple(value.shape)
    edit = Check(
        title=f"write {name} instead of {ast.unparse(node)}",
        code=name,
        check=lambda: f"it is a tensor of {shape}",
        written=replace_expression(crash.error, node, name),
    )
    return Suspect(
        module=None,
        message=f"{name} is a tensor of {shape}, not a dict: it has no {ast.unparse(node.slice)}",
        arithmetic="the model returns the tensor itself",
        candidates=(propose(edit),),
        weight=STRONG,
        tensors=(value,),
    )
