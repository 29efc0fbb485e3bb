"""`saferflow serve`: what was registered and nothing else, and no server that others reach without a key."""

import time
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient
from rich.console import Console
from typer.testing import CliRunner

from saferflow.cli import serve as serve_module
from saferflow.cli.serve import KEY, SYSTEM_KEY, TRANSFORMERS, VLLM, refuse_open_doors, serve_system
from saferflow.commands import serve as commands
from saferflow.errors import PipelineError
from saferflow.params import load_params
from saferflow.release import registry
from saferflow.release.weights import folder_digest
from saferflow.serving.answer import WITHHELD
from saferflow.training.vllm_program import PROGRAM
from tests.serving.written import question, save_untrained
from tests.training.vllm_stand_in import stand_in

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
@pytest.mark.parametrize("backend", [TRANSFORMERS, VLLM])
def test_on_loopback_no_key_is_wanted(backend, host, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    refuse_open_doors(backend, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "a.host.example"])  # noqa: S104
def test_beyond_it_vllm_wants_a_key_and_transformers_does_not_go(host, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    for backend in (TRANSFORMERS, VLLM):
        with pytest.raises(PipelineError, match=KEY):
            refuse_open_doors(backend, host)
    monkeypatch.setenv(KEY, "a key")
    refuse_open_doors(VLLM, host)
    with pytest.raises(PipelineError, match=f"{TRANSFORMERS}' server asks nobody for a key"):
        refuse_open_doors(TRANSFORMERS, host)


def test_the_system_serves_the_version_that_was_registered_to_who_shows_the_key(registered, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(uvicorn, "run", lambda app, host, port, **_: started.append((app, host, port)))
    monkeypatch.delenv(SYSTEM_KEY, raising=False)
    folder = save_untrained(tmp_path / "weights")
    registered(folder.as_uri(), folder_digest(folder))
    serving = {"params": MICRO, "asked": "v1", "host": "10.0.0.1", "port": 8001}
    with pytest.raises(PipelineError, match=SYSTEM_KEY):
        serve_system(Console(quiet=True), tmp_path, **serving)
    assert not started
    monkeypatch.setenv(SYSTEM_KEY, "a key")
    serve_system(Console(quiet=True), tmp_path, **serving)
    [(app, *where)] = started
    assert where == ["10.0.0.1", 8001]
    with TestClient(app) as client:
        assert client.get("/health").json()["digest"] == folder_digest(folder)
        assert client.get("/v1/models").status_code == 401
        models = client.get("/v1/models", headers={"Authorization": "Bearer a key"}).json()["data"]
        assert [row["id"] for row in models] == ["saferflow-micro-v1", "champion"]


def test_behind_vllm_the_same_system_checks_what_vllm_draws(registered, tmp_path, monkeypatch):
    """A stand-in for vLLM, whose answers keep no plan."""
    started = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: started.append(app))
    monkeypatch.setenv(PROGRAM, str(stand_in(tmp_path)))
    folder = save_untrained(tmp_path / "weights")
    registered(folder.as_uri(), folder_digest(folder))
    serve_system(Console(quiet=True), tmp_path, MICRO, "v1", host="127.0.0.1", port=1, backend=VLLM, arguments=["--further=1"])
    with TestClient(started[0]) as client:
        answer = client.post("/v1/chat/completions", json=question("Hello")).json()
    assert (answer["saferflow"]["withheld"], answer["choices"][0]["message"]["content"]) == (True, WITHHELD)
    assert answer["saferflow"]["digest"] == folder_digest(folder)
    [log] = tmp_path.glob(".saferflow/served/*.vllm.log")
    assert '"--further=1"]' in log.read_text()


@pytest.mark.parametrize(
    ("words", "version", "further"),
    [
        (["--max-model-len", "64"], "champion", ["--max-model-len", "64"]),
        (["v3", "--max-model-len=64"], "v3", ["--max-model-len=64"]),
        ([], "champion", []),
    ],
)
def test_further_options_go_to_vllm_and_are_no_version(tmp_path, monkeypatch, words, version, further):
    started = []
    monkeypatch.setattr(commands, "project", lambda: (tmp_path, MICRO))
    monkeypatch.setattr(serve_module, "serve_system", lambda *args, **more: started.append((args[3], more["arguments"])))
    result = CliRunner().invoke(commands.app, ["--backend", "vllm", *words])
    assert result.exit_code == 0, result.output
    assert started == [(version, further)]
    assert CliRunner().invoke(commands.app, words).exit_code == (2 if further else 0)


def test_a_champion_of_the_registry_is_taken_over_with_its_files_and_a_broken_one_is_not(registered, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: started.append(app))
    folders = [save_untrained(tmp_path / name) for name in ("first", "second")]
    (folders[1] / "NOTES").write_text("another version has another digest", encoding="utf-8")
    registered(folders[0].as_uri(), folder_digest(folders[0]))
    serve = MICRO.serve.model_copy(update={"follow_seconds": 0.05})
    serve_system(Console(quiet=True), tmp_path, MICRO.model_copy(update={"serve": serve}), "champion", host="::1", port=1)
    model = MICRO.gate.registered_model
    run = registry.by_number(model, 1).run
    with TestClient(started[0]) as client:
        assert client.get("/health").json()["version"] == f"{model}-v1"
        for number, digest in ((2, folder_digest(folders[1])), (3, "another.dir")):
            version = registry.register(model, folders[1].as_uri(), run, {registry.MODEL_DIGEST: digest})
            registry.promote(version, "a test", number - 1)
            wait_for(lambda: client.get("/health").json()["version"] == f"{model}-v2")
        assert client.get("/health").json()["digest"] == folder_digest(folders[1])
        wait_for(lambda: client.get("/health").json()["trouble"])
        assert "version 3, which champion points to, cannot be loaded" in client.get("/health").json()["trouble"]
        assert client.get("/health").json()["version"] == f"{model}-v2"


def wait_for(condition):
    """Until it holds; a test that waits in vain ends at its time limit."""
    while not condition():
        time.sleep(0.05)
