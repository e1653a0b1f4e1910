"""How a plain container of modules or parameters is written so that torch registers what it
holds.
"""

from collections.abc import Sequence


def write_container(attribute: str, kinds: Sequence[str], of: str) -> str:
    """The statement that sets an attribute to containers of torch's.

    Args:
        attribute: of the module.
        kinds: of the containers, the outermost first: "list", "dict", or "numbered", a dict whose
            keys are no strings.
        of: "Module" or "Parameter": what the innermost ones hold.

    >>> write_container("blocks", ["list"], "Module")
    'self.blocks = nn.ModuleList(...)'
    >>> write_container("blocks", ["list", "list"], "Module")
    'self.blocks = nn.ModuleList([nn.ModuleList(each) for each in ...])'
    >>> write_container("scales", ["numbered"], "Parameter")
    'self.scales = nn.ParameterDict({str(k): v for k, v in (...).items()}), read as self.scales[str(k)]'
    """  # noqa: E501
    if not kinds:
        return (
            f"self.{attribute} = nn.{of}(...)" if of == "Parameter" else f"self.{attribute} = ..."
        )
    reading = f", read as self.{attribute}[str(k)]" if "numbered" in kinds else ""
    return f"self.{attribute} = {_write(kinds, of, '...')}{reading}"


def _write(kinds: Sequence[str], of: str, value: str) -> str:
    outermost, inner = kinds[0], kinds[1:]
    name = f"nn.{'Module' if inner else of}{'List' if outermost == 'list' else 'Dict'}"
    if outermost == "list":
        return (
            f"{name}([{_write(inner, of, 'each')} for each in {value}])"
            if inner
            else f"{name}({value})"
        )
    held = _write(inner, of, "v") if inner else "v"
    if outermost == "dict" and not inner:
        return f"{name}({value})"
    key = "str(k)" if outermost == "numbered" else "k"
    items = value if value.isidentifier() else f"({value})"
    return f"{name}({{{key}: {held} for k, v in {items}.items()}})"
