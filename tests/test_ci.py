"""The workflow of the docs, run as a runner runs it: every step in bash, in a clone of a pull
request; only pip and gh are stand-ins.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.python import make_stand_ins, start_server

GUIDE = Path(__file__).parents[1] / "docs" / "how-to" / "use-in-ci.md"
STAND_IN = '#!/bin/sh\necho "$@" >> "$CALLS"\n'


def blocks(language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def git(folder, *command):
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone of a repository whose pull request makes the net deeper."""
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})  # writes net.py
    origin = tmp_path / "origin"
    origin.mkdir()
    code = (tmp_path / "net.py").read_text()
    git(origin, "init")
    for branch, depth in (("main", 2), ("deeper", 3)):
        git(origin, "checkout", "-b", branch)
        (origin / "net.py").write_text(code.replace("depth=2", f"depth={depth}"))
        git(origin, "add", "net.py")
        git(origin, "commit", "-m", branch)
    git(tmp_path, "clone", str(origin), "clone")
    return tmp_path / "clone"


def run_step(command, folder, environment):
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, f"{command}\n{done.stdout}\n{done.stderr}"


def test_workflow_of_the_docs_comments_what_a_pull_request_changes(clone, tmp_path):
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("pip", "gh"):
        (stand_ins / name).write_text(STAND_IN)
        (stand_ins / name).chmod(0o755)
    environment = {
        **os.environ,
        "GITHUB_BASE_REF": "main",
        "PULL_REQUEST": "7",
        "CALLS": str(tmp_path / "calls"),
        "FORK_SERVER": start_server(),
    }
    environment |= {
        "PATH": os.pathsep.join([str(stand_ins), make_stand_ins(), os.environ["PATH"]]),
        "PYTHONPATH": str(GUIDE.parents[2]),
    }
    workflow = yaml.safe_load(blocks("yaml")[1])
    for step in workflow["jobs"]["compare"]["steps"]:
        if "run" in step:
            run_step(step["run"], clone, environment)
    comment = (clone / "comment.md").read_text()
    assert "| parameters | 25,578 | 26,650 | +4.2% |" in comment
    assert "added: '6' (Conv2d), '7' (ReLU), '8' (MaxPool2d)" in comment
    assert (
        "pr comment 7 --body-file comment.md --edit-last --create-if-none"
        == (tmp_path / "calls").read_text().splitlines()[-1]
    )


def test_hook_of_the_docs_runs_a_command_that_the_docs_run():
    (hook,) = yaml.safe_load(blocks("yaml")[0])["repos"][0]["hooks"]
    assert any(f"$ {hook['entry']}\n" in block for block in blocks("console"))
    assert "net.py" == re.fullmatch(hook["files"], "net.py").group()
