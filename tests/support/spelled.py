"""Operations and their samples."""

from operation_samples import spellings
from torch import Tensor

from cnnprobe import operations

MATCHED = [info for info in operations.ALL if spellings(info)]


def tensors(value) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Tensor):
        return [value]
    return [t for each in value for t in tensors(each)] if isinstance(value, list | tuple) else []
