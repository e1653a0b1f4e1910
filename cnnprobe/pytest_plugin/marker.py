"""Hooks around each test, registered only where a marker, an ini key or an option asks for them."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest

NAME = "cnnprobe-watching"
CALLED = pytest.StashKey[Any]()  # the CalledModels of a test: naming the type would import torch


def read_checks(item: pytest.Item) -> Mapping[str, Any] | None:
    """What the marker asks of a test, over what the ini key `cnnprobe_checks` asks of all; None for
    nothing.
    """
    mark = item.get_closest_marker("cnnprobe")
    usual = dict.fromkeys(item.config.getini("cnnprobe_checks"), True)
    if mark is None:
        return usual or None
    return {**usual, **mark.kwargs} if mark.kwargs else {**usual, "finite": True}


class Watching:
    """A plugin of its own, so that a suite that asks for nothing has no hook around its tests."""

    def __init__(self, *, keeps_models: bool) -> None:
        self._keeps_models = keeps_models  # for the pages of failing tests

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Models that fixtures call are on the pages too."""
        if not self._keeps_models:
            return (yield)
        from cnnprobe.testing.live_checks import CalledModels

        with item.stash.setdefault(CALLED, CalledModels()):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Hold the models that the test calls to its checks."""
        __tracebackhide__ = True
        checks = read_checks(item)
        if checks is None and not self._keeps_models:
            return (yield)
        from cnnprobe.testing.live_checks import CalledModels, watch

        called = item.stash.setdefault(CALLED, CalledModels())
        with watch(called, **(checks or {})):
            return (yield)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """The models of a test are let go with it."""
        if CALLED in item.stash:
            del item.stash[CALLED]
