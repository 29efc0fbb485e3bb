"""The local servers of a checkout, as processes that outlive a run: Prefect's and MLflow's pages, on loopback.

`prefect server start --background` is for one server, and does not see which checkout and port it belongs to.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import psutil

from saferflow.addresses import unusable_proxies
from saferflow.errors import PipelineError
from saferflow.layout import HOME
from saferflow.tracking import trouble

HOST = "127.0.0.1"
START_SECONDS = 300
"""Prefect's server takes two minutes on a busy machine; the end of a server is noticed at once."""
STOP_SECONDS = 10
LINE_CHARS = 300
"""Most characters of a log's line in a message."""


@dataclass(frozen=True, slots=True)
class Service:
    """A server: its command, and its address for health checks."""

    name: str
    port: int
    """The preferred port; another one if it is taken, so that two checkouts do not meet."""
    health: str
    command: Callable[[int], list[str]]
    database: str = ""
    """Path of its own database, relative to the checkout."""


def _prefect(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def _mlflow(port: int) -> list[str]:
    store, root = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    where = ["--backend-store-uri", store, "--default-artifact-root", root]
    return [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *where]


PREFECT = Service("prefect", 4200, "/api/health", _prefect, ".saferflow/prefect/prefect.db")
MLFLOW = Service("mlflow", 5000, "/health", _mlflow, ".saferflow/mlflow.db")
SERVICES = (PREFECT, MLFLOW)


def running(service: Service, root: Path = Path()) -> str | None:
    """The address of this checkout's server; None unless its process is alive and answers."""
    state = _state(service, root)
    here = state and state.get("root") == str(
        root.resolve()
    )  # a server of a checkout that was moved serves the old place
    if here and _listens(_process(state, root), state["port"]) and _healthy(_address(state["port"]) + service.health):
        return _address(state["port"])
    return None


def launch(service: Service, root: Path = Path()) -> None:
    """Start the server unless it runs already or is starting, without waiting for it; `start` waits."""
    state = _state(service, root) or {}
    starting = state.get("root") == str(root.resolve()) and time.time() - state["created"] < START_SECONDS
    if state and _process(state, root) and (starting or running(service, root)):
        return
    stop(service, root)
    port = _free_port(state.get("port", service.port))
    with _log(service, root).open("wb") as output:
        process = subprocess.Popen(
            service.command(port),
            cwd=root,
            env={name: value for name, value in os.environ.items() if name not in unusable_proxies(os.environ)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    state = json.dumps({"pid": process.pid, "created": created, "port": port, "root": str(root.resolve())})
    _file(service, root).write_text(state)


def start(service: Service, root: Path = Path()) -> str:
    """Start the server unless it runs already; return its address once it answers.

    Raises:
        PipelineError: the server did not come up; the message holds the end of its log.
    """
    limit = time.monotonic() + START_SECONDS
    launch(service, root)
    while not (address := running(service, root)):
        state = _state(service, root) or {}
        gone = _process(state, root) is None
        if gone and _free_port(state["port"]) != state["port"] and time.monotonic() < limit:
            launch(service, root)  # another server took the port while this one came up: on the next one
            continue
        if gone or time.monotonic() > limit:
            fault = _fault(_address(state["port"]) + service.health) if state else ""
            stop(service, root)
            log = _log(service, root)
            text = log.read_text(errors="replace")
            if (line := trouble.in_log(text, str((root / service.database).resolve()))) and service.database:
                raise PipelineError(f"{service.name} did not start: {line}")
            tail = "\n".join(line[:LINE_CHARS] for line in text.splitlines()[-15:])
            where = _address(state["port"])
            raise PipelineError(f"{service.name} {_what_went_wrong(gone, where, fault)}; the end of {log}:\n{tail}")
        time.sleep(0.2)
    return address


def _what_went_wrong(gone: bool, where: str, fault: str) -> str:
    """Say whether a server ended before it answered, or runs and does not answer well."""
    if gone:
        return f"did not start on {where}: its process has ended"
    return f"was started and did not answer well on {where} within {START_SECONDS} s ({fault or 'it listens on another port'})"


def stop(service: Service, root: Path = Path()) -> bool:
    """End this checkout's server and its child processes; True if there was one."""
    state = _state(service, root)
    process = _process(state, root) if state else None
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    for end in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(end)
        _, family = psutil.wait_procs(family, timeout=STOP_SECONDS)
        if not family:
            break
    return True


def _log(service: Service, root: Path) -> Path:
    return root / HOME / f"{service.name}.log"


def _file(service: Service, root: Path) -> Path:
    return root / HOME / f"{service.name}.json"


def _state(service: Service, root: Path) -> dict | None:
    try:
        return json.loads(_file(service, root).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _process(state: dict, root: Path) -> psutil.Process | None:
    """The process that the file names.

    A later process with the same number does not count. Nor does one that works in another folder: the file was then copied
    with its checkout, and the server belongs to the original.
    """
    try:
        process = psutil.Process(state["pid"])
        alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - state["created"]) < 1
        alive = alive and Path(process.cwd()) == root.resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
        return None
    return process if alive else None


def _listens(process: psutil.Process | None, port: int) -> bool:
    """Whether this process or a child of it listens on the port; another program may have taken it."""
    if process is None:
        return False
    try:
        family = [process, *process.children(recursive=True)]
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for member in family
            for connection in member.net_connections(kind="tcp")
        )
    except psutil.NoSuchProcess:
        return False


def _address(port: int) -> str:
    return f"http://{HOST}:{port}"


def _healthy(url: str) -> bool:
    return not _fault(url)


def _fault(url: str) -> str:
    """The problem of the server's answer; empty where it is healthy. Proxies of the environment are not used."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except (OSError, HTTPException) as error:  # URLError is one of the first
        return f"{error!s:.200}"


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                return probe.getsockname()[1]
    raise PipelineError(f"no free port on {HOST}")
