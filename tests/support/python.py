"""Runs programs of Python in processes of their own, which are forks of one that has torch."""

import atexit
import contextlib
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

from tests.support.ask_fork_server import ask

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


@functools.cache
def start_server():
    """The address of this process's server."""
    folder = tempfile.TemporaryDirectory(prefix="cnnprobe-forks-")
    address = str(pathlib.Path(folder.name) / "socket")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "fork_server.py"), address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder.name,
    )  # fmt: skip
    atexit.register(end_server, server, folder)
    assert server.stdout.readline() == b"ready\n", "the fork server did not start"
    return address


def end_server(server, folder):
    """The end of its standard input ends it."""
    server.stdin.close()
    server.wait()
    server.stdout.close()
    folder.cleanup()


def run_python(*arguments, cwd=".", env=None, text=""):
    """What `subprocess.run([sys.executable, *arguments])` gives, with the outputs as text.

    `text` is what it reads from its standard input.
    """
    env = dict(os.environ if env is None else env)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(text.encode())
        streams[0].seek(0)
        numbers = [stream.fileno() for stream in streams]
        code = ask(start_server(), list(map(str, arguments)), os.path.abspath(cwd), env, numbers)
        for stream in streams[1:]:
            stream.seek(0)
        out, err = (stream.read().decode() for stream in streams[1:])
    return subprocess.CompletedProcess(arguments, code, out, err)


def fork_workers(number):
    """The options of pytest-xdist for workers that are forks as well; `FORK_SERVER` names the
    server.
    """
    return ["--dist", "load", "--tx", f"{number}*popen//python={make_stand_ins()}/python"]


@functools.cache
def make_stand_ins():
    """A folder for the PATH: `python`, `pytest` and `cnnprobe` ask the server, as programs of a
    shell.
    """
    folder = tempfile.mkdtemp(prefix="cnnprobe-programs-")
    atexit.register(subprocess.run, ["rm", "-r", folder], check=False)
    client = f'exec "{sys.executable}" -SI "{HERE / "ask_fork_server.py"}"'
    for name, arguments in (("python", ""), ("pytest", "-m pytest"), ("cnnprobe", "-m cnnprobe")):
        program = pathlib.Path(folder) / name
        program.write_text(f'#!/bin/sh\n{client} {arguments} "$@"\n')
        program.chmod(0o755)
    return folder
