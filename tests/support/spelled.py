"""Operations and their samples."""

from torch import Tensor

from cnnprobe import operations
from tests.support.operation_samples import spellings

MATCHED = [info for info in operations.ALL if spellings(info)]


def tensors(value) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Tensor):
        return [value]
    return [t for each in value for t in tensors(each)] if isinstance(value, list | tuple) else []
