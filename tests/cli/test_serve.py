"""`saferflow serve`: no server that others reach without a key."""

import pytest

from saferflow.cli.serve import KEY, TRANSFORMERS, VLLM, refuse_open_doors
from saferflow.errors import PipelineError


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
