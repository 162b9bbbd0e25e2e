"""Run notebooks from top to bottom and keep their outputs.

    python notebooks/run.py                                  all of this directory, in place
    python notebooks/run.py sessions.ipynb --output copy.ipynb

Each gets a fresh kernel in an empty home directory, without the caller's environment and so
without API keys, and cannot connect to another machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
CELL_SECONDS = 60

# What a Python needs to start, and the server program if it is not the one of `embedded`.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "REDIS_TIERED_SERVER")

# Python runs it before anything else. ZeroMQ, by which a kernel is spoken to, does not pass here.
_SITECUSTOMIZE = """
import ipaddress
import sys


def _is_near(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host if isinstance(host, str) else host.decode()).is_loopback
    except ValueError:
        return False


def _refuse(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # the path of a unix socket
            return
        host = address[0]
    else:
        return
    if not _is_near(host):
        raise PermissionError(f"a notebook must not use the network: {event} {host!r}")


sys.addaudithook(_refuse)
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all beside this file")
    parser.add_argument("--output", type=Path, help="of a single notebook; default: in place")
    given = parser.parse_args(words)
    notebooks = given.notebooks or sorted(HERE.glob("*.ipynb"))
    if given.output and len(notebooks) != 1:
        parser.error("--output takes one notebook")
    for notebook in notebooks:
        # A short path: that of a unix socket has at most 107 characters.
        with tempfile.TemporaryDirectory(prefix="rt-", ignore_cleanup_errors=True) as home:
            _move_into(Path(home))
            if (data := notebook.absolute().parent / "data").is_dir():
                (Path(home) / "work" / "data").symlink_to(data)
            run(notebook.absolute(), (given.output or notebook).absolute(), Path(home))


def _move_into(home: Path) -> None:
    """Leave this process, and the kernels it starts, nothing of the caller's environment."""
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    (home / "work").mkdir()
    (home / "tmp").mkdir()
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update(
        kept,
        HOME=str(home),
        TMPDIR=str(home / "tmp"),
        PYTHONPATH=str(home / "site"),
        IPYTHONDIR=str(home / "ipython"),
        JUPYTER_CONFIG_DIR=str(home / "jupyter"),
        JUPYTER_DATA_DIR=str(home / "jupyter"),
        JUPYTER_RUNTIME_DIR=str(home / "jupyter"),
        JUPYTER_PLATFORM_DIRS="1",
        MPLCONFIGDIR=str(home / "matplotlib"),
        PYTHONDONTWRITEBYTECODE="1",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
    )


def run(notebook: Path, output: Path, home: Path) -> None:
    """Execute a notebook and write it with its outputs, and with no more metadata than needed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from traitlets.config import Config

    document = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        document,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # as a screen shows them: of a progress bar its last state
        resources={"metadata": {"path": str(home / "work")}},
        config=Config({"KernelManager": {"transport": "ipc", "ip": str(home / "kernel")}}),
    )
    running = ""

    def remember(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal running
        running = cell.source

    client.on_cell_execute = remember
    try:
        client.execute()
    except CellControlSignal as error:  # shows the cell itself
        sys.exit(f"{notebook.name}: {error}")
    except DeadKernelError as error:
        sys.exit(f"{notebook.name}: {error}, in this cell:\n{running}")
    document.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in document.cells:
        cell.metadata.clear()
    nbformat.write(document, output)


if __name__ == "__main__":
    main()
