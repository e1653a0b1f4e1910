"""torch's operations, each once: spellings, layers, arguments, effect on shapes. No torch.

Ask for the operation of a row or a name, then for its properties; a room keeps no list of its own.

>>> find_function("torch.Tensor.__iadd__") is find_function("torch.add")
True
>>> find_layer("Conv2d").name, find_function("torch.conv2d").effect
('conv2d', 'windows')
>>> sorted(select(trait="saturates"))
['hardsigmoid', 'hardtanh', 'sigmoid', 'softsign', 'tanh']
"""

from cnnprobe.operations.arguments import is_variadic, name_keyword, name_position, read_argument
from cnnprobe.operations.catalogue import (
    ALL,
    find,
    find_function,
    find_layer,
    find_name,
    find_signature,
    is_writing,
    read_name,
    resolve_name,
    select,
    select_groups,
)
from cnnprobe.operations.info import Effect, Family, OperationInfo, Signature, Trait

__all__ = [
    "ALL",
    "Effect",
    "Family",
    "OperationInfo",
    "Signature",
    "Trait",
    "find",
    "find_function",
    "find_layer",
    "find_name",
    "find_signature",
    "is_variadic",
    "is_writing",
    "name_keyword",
    "name_position",
    "read_argument",
    "read_name",
    "resolve_name",
    "select",
    "select_groups",
]
