"""Switches for every test: no network, no telemetry, no setting of the person who runs them; and an OpenAI-compatible server."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from saferflow.tracking import environment

settings.register_profile("project", deadline=None)  # a time limit would fail on a busy machine
settings.load_profile("project")

os.environ.update(environment.TELEMETRY_OFF)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # files run side by side: who waits gives the core to who works
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREFECT_"))]:
    if name not in environment.TELEMETRY_OFF:
        del os.environ[name]
environment.offline()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> Path:
    """A database as this MLflow makes it, empty: making it takes seconds, copying it none."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def traced(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch):
    """(client, experiment) of a copy of that database, which MLflow and `tracking.runs` use meanwhile."""
    import mlflow
    from mlflow import MlflowClient
    from saferflow.tracking import runs

    shutil.copy(database, tmp_path / "mlflow.db")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(address)
    experiment = client.create_experiment("align", artifact_location=(tmp_path / "artifacts").as_uri())
    monkeypatch.setattr(runs, "client", lambda: client)
    monkeypatch.setattr(runs, "experiment", lambda: experiment)
    mlflow.set_tracking_uri(address)
    yield client, experiment
    mlflow.set_tracking_uri(None)  # the address before is the variable's, and would be a set one if it were set here


Answer = Callable[[dict[str, Any], int], tuple[int, dict[str, str], str | bytes | None]]
"""Gets the request and how often the same came before; returns status, headers, and the model's text, or the body as bytes
(None cuts the connection)."""


class Server(ThreadingHTTPServer):
    """On loopback; answers as it is told, cuts a connection, and counts requests at once, which pytest-httpserver does not."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, answer: Answer, delay: float):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.delay = answer, delay
        self.asked: list[dict[str, Any]] = []
        self.authorisations: set[str] = set()
        self.times: Counter[str] = Counter()
        self.paths: set[str] = set()
        self.open = self.most_at_once = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        request, server = json.loads(body), self.server
        with server.lock:
            before = server.times[body]
            server.times[body] += 1
            server.asked.append(request)
            server.authorisations.add(self.headers["Authorization"])
            server.paths.add(self.path)
            server.open += 1
            server.most_at_once = max(server.most_at_once, server.open)
        time.sleep(server.delay)
        with server.lock:
            server.open -= 1
        status, headers, text = server.answer(request, before)
        if text is None:
            self.close_connection = True
            return
        if status == 200 and isinstance(text, str):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            about = {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"]}
            text = json.dumps({**about, "choices": [choice], "usage": usage})
        body = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def serve():
    """Starts servers, and ends them."""
    servers = []

    def start(answer: Answer, delay: float = 0.0) -> Server:
        servers.append(Server(answer, delay))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
