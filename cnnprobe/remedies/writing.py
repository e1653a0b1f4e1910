"""How a remedy of a layer changes the user's file, by the edits that the repairs of crashes use."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from cnnprobe.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change
from cnnprobe.crash.edits.layers import Exchange, Reconfigure
from cnnprobe.diagnosis.evidence import Evidence

Written = Callable[[], list[Change]]


def _write(edit: Edit, evidence: Evidence, model: nn.Module) -> Written:
    seen = Crash(error=RuntimeError(), model=model, trace=evidence.trace)
    return lambda: edit.write(seen, [edit])


def write_settings(
    fqn: str, changes: Mapping[str, Any], evidence: Evidence, model: nn.Module
) -> Written:
    """Other arguments where a layer is made."""
    return _write(Reconfigure(title="", module=fqn, changes=changes), evidence, model)


def write_layer(fqn: str, code: str, evidence: Evidence, model: nn.Module) -> Written:
    """Another layer, as code ("nn.Identity()"), where this one is made."""
    edit = Exchange(title="", module=fqn, code=code, layer=lambda _: nn.Identity())
    return _write(edit, evidence, model)
