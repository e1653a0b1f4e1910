"""Asks the fork server for a run of Python: `ask_fork_server.py ARGUMENT...` in place of `python`.

It imports little, as it starts often. The streams are its own. The server's address is in the
environment.
"""

import json
import os
import socket
import sys


def ask(address, arguments, folder, environment, streams):
    """The exit code of a program that the server runs on these streams; below 0 for a signal."""
    request = {"arguments": arguments, "folder": folder, "environment": environment}
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"%8d" % len(data)], streams)
        connection.sendall(data)
        return int(connection.recv(16))


if __name__ == "__main__":
    code = ask(os.environ["FORK_SERVER"], sys.argv[1:], os.getcwd(), dict(os.environ), [0, 1, 2])
    sys.exit(code if code >= 0 else 128 - code)
