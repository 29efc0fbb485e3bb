"""Served requests as traces in a real MLflow store: what was said only where it may be, and never at an answer's cost."""

import time

import pytest

import mlflow
from saferflow.params import TraceParams
from saferflow.serving.tracing import Tracer
from saferflow.tracking.traces import log_request
from tests.serving.test_served_system import picture
from tests.serving.written import WrittenPolicy, question, served

SECRET = "How do I open the cupboard of aunt Ottilie?"


@pytest.fixture
def store(traced):
    client, experiment = traced
    return lambda: client.search_traces(locations=[experiment])


def answered(policy, tracer, picture=None):
    """The completion, the metrics once a trace is counted, and what /health says."""
    with served(policy, prepare=lambda system: setattr(system, "tracer", tracer)) as client:
        body = client.post("chat/completions", json=question(SECRET, picture)).json()
        host = f"http://{client.base_url.netloc.decode()}"
        deadline = time.monotonic() + 60
        while "saferflow_traces_total{" not in (metrics := client.get(f"{host}/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return body, metrics, client.get(f"{host}/health").json()["traces"]


def test_a_request_is_a_trace_with_the_steps_that_it_went_through(store):
    policy = WrittenPolicy()
    policy.instead = lambda job, temperature: "<answer>No trace.</answer>" if temperature is None else None
    body, metrics, health = answered(policy, Tracer(TraceParams(redact=()), log_request), picture())
    assert health == {"on": True, "redact": []}
    assert 'saferflow_traces_total{result="written"} 1.0' in metrics
    [trace] = store()
    assert trace.info.tags["saferflow.completion"] == body["id"]
    spans = trace.data.spans
    assert [span.name for span in spans] == ["answer", "plan", "generate", "check", "redraw", "check"]
    assert spans[2].outputs["content"] == "No trace."
    assert spans[3].outputs["violations"]
    assert spans[5].outputs["violations"] == []
    assert spans[0].outputs["choices"][0]["message"]["content"] == body["choices"][0]["message"]["content"]
    assert SECRET in str(spans[0].inputs)
    assert "data:image" not in str([(span.inputs, span.outputs) for span in spans])


def test_what_is_redacted_is_nowhere_in_a_trace(store):
    redact = ("content", "reasoning_content")
    answered(WrittenPolicy(), Tracer(TraceParams(redact=redact), log_request))
    [trace] = store()
    assert "Ottilie" not in trace.to_json()
    assert len(trace.data.spans) == 4


def test_a_tracking_server_that_is_away_costs_the_trace_and_no_answer(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    body, metrics, _ = answered(WrittenPolicy(), Tracer(TraceParams(redact=()), log_request))
    assert body["choices"][0]["finish_reason"] == "stop"
    assert 'saferflow_traces_total{result="failed"} 1.0' in metrics
