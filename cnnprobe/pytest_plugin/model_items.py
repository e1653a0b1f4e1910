"""The tests of `pytest --cnnprobe SPEC`: one a check, without a test file."""

from pathlib import Path
from typing import Any

import pytest


def make_items(session: pytest.Session, spec: str) -> list[pytest.Item]:
    """One test for each check of the model."""
    from cnnprobe.testing.model_checks import CHECKS

    items: list[pytest.Item] = [
        ModelCheck.from_parent(session, name=name, nodeid=f"{spec}::{name}", check=name)
        for name in CHECKS
    ]
    # They come from no file, and would be missing in the number of collected tests.
    session.config.hook.pytest_collectreport(
        report=pytest.CollectReport(nodeid=spec, outcome="passed", longrepr=None, result=[*items])
    )
    return items


class ModelCheck(pytest.Item):
    """One check of the model that `--cnnprobe` names."""

    def __init__(self, *, check: str, **options: Any) -> None:
        super().__init__(**options)
        self.check = check

    def runtest(self) -> None:
        """Build the model and its inputs, and run the check."""
        from cnnprobe.testing.model_checks import run

        option = self.config.getoption
        run(
            self.check,
            str(option("--cnnprobe")),
            tuple(option("--cnnprobe-input")),
            tuple(option("--cnnprobe-arg")),
        )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone, where it is one of ours."""
        from cnnprobe.errors import ProbeError

        if isinstance(excinfo.value, AssertionError | ProbeError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it stands in the report."""
        return self.path, None, self.check
