"""Servers of a checkout: found again, told from strangers, ended with everything they started."""

import json
import os
import shutil
import socket
import subprocess
import sys

import psutil
import pytest

from saferflow.errors import PipelineError
from saferflow.tracking import services
from saferflow.tracking.services import Service
from tests.flows.cluster import free_port

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen(["sleep", "100"])
open("child.pid", "w").write(str(child.pid))
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Well).serve_forever()
"""


def service(port: int) -> Service:
    return Service("toy", port, "/health", lambda port: [sys.executable, "-c", SERVER, str(port)])


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".saferflow").mkdir()
    yield tmp_path
    services.stop(service(0), tmp_path)


@pytest.fixture
def port():
    return free_port()


def test_a_started_server_is_found_again_and_not_started_twice(root, port):
    address = services.start(service(port), root)
    pid = json.loads((root / ".saferflow" / "toy.json").read_text())["pid"]
    assert services.running(service(port), root) == address
    assert services.start(service(port), root) == address
    assert json.loads((root / ".saferflow" / "toy.json").read_text())["pid"] == pid


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_a_server_on_this_machine_is_asked_whatever_proxy_the_shell_names(root, port, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = services.start(service(port), root)
    assert services.running(service(port), root) == address


def test_a_server_that_is_there_and_ill_is_not_called_one_that_did_not_start(root, port, monkeypatch):
    monkeypatch.setattr(services, "START_SECONDS", 2)
    ill = Service("toy", port, "/ill", lambda port: [sys.executable, "-c", SERVER.replace("200", "503"), str(port)])
    with pytest.raises(PipelineError, match=r"toy was started and did not answer well .* \(HTTP Error 503"):
        services.start(ill, root)


def test_stopping_ends_what_the_server_started_too(root, port):
    services.start(service(port), root)
    child = int((root / "child.pid").read_text())
    assert services.stop(service(port), root)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert services.running(service(port), root) is None
    assert not services.stop(service(port), root)


def test_a_taken_port_is_left_to_its_holder(root, port):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        address = services.start(service(port), root)
    assert not address.endswith(f":{port}")


def test_a_server_that_took_the_port_meanwhile_is_not_taken_for_ours(root, port):
    """Two checkouts that start at once ask for the same port, and both find it free."""
    slow = Service(
        "toy",
        port,
        "/health",
        lambda port: [sys.executable, "-c", f"import time; time.sleep(1.5)\n{SERVER}", str(port)],
    )
    services.launch(slow, root)
    other = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=root)
    try:
        address = services.start(slow, root)
        assert not address.endswith(f":{port}")
        assert services.running(slow, root) == address
    finally:
        for process in (*psutil.Process(other.pid).children(recursive=True), other):
            process.kill()
        other.wait()


def test_another_process_with_the_remembered_number_is_not_touched(root, port):
    """After a restart of the machine the number may belong to anyone."""
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        state = {"pid": stranger.pid, "created": psutil.Process(stranger.pid).create_time() - 1000, "port": port}
        (root / ".saferflow" / "toy.json").write_text(json.dumps(state))
        assert not services.stop(service(port), root)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(root, port):
    broken = Service("toy", port, "/", lambda port: [sys.executable, "-c", "raise SystemExit('no database')"])
    with pytest.raises(PipelineError, match=r"toy did not start on .* its process has ended(.|\n)*no database"):
        services.start(broken, root)


def test_servers_bind_to_loopback(monkeypatch):
    monkeypatch.setitem(os.environ, "MLFLOW_BACKEND_STORE_URI", "sqlite:///x")
    monkeypatch.setitem(os.environ, "MLFLOW_DEFAULT_ARTIFACT_ROOT", "x")
    for known in services.SERVICES:
        command = known.command(1234)
        assert command[command.index("--host") + 1] == "127.0.0.1"


def test_a_copy_of_a_checkout_leaves_the_originals_server_alone_and_starts_its_own(root, port, tmp_path_factory):
    address = services.start(service(port), root)
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    shutil.copytree(root, copy)
    assert services.running(service(port), copy) is None
    assert not services.stop(service(port), copy)
    try:
        assert services.start(service(port), copy) != address
        assert services.running(service(port), root) == address
    finally:
        services.stop(service(port), copy)


def test_a_moved_checkout_ends_the_server_of_its_former_place_and_starts_one_here(tmp_path, port):
    first = tmp_path / "first"
    (first / ".saferflow").mkdir(parents=True)
    services.start(service(port), first)
    pid = json.loads((first / ".saferflow" / "toy.json").read_text())["pid"]
    second = first.rename(tmp_path / "second")
    assert services.running(service(port), second) is None
    try:
        services.start(service(port), second)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert json.loads((second / ".saferflow" / "toy.json").read_text())["pid"] != pid
    finally:
        services.stop(service(port), second)


def test_a_server_whose_database_is_of_another_version_says_so_in_one_line(root, port):
    code = "import sys; sys.exit(\"alembic.util.exc.CommandError: Can't locate revision identified by 'abc123'\")"
    broken = Service("toy", port, "/health", lambda _: [sys.executable, "-c", code], "toy/toy.db")
    with pytest.raises(PipelineError) as error:
        services.start(broken, root)
    assert str(error.value) == (
        f"toy did not start: the database {root}/toy/toy.db was written by another version (schema abc123); install the version "
        "that wrote it, or move the database away and begin a new one"
    )
