"""`saferflow serve --guard`: the policy decides, and another model answers where it lets it."""

import json

import pytest

from saferflow.data.rows import Labels
from saferflow.planner.rules import plan_for
from saferflow.serving.guard import GuardedModel
from tests.serving.written import WrittenPolicy, kept, question, served

REFUSED = Labels("safety", "S2", 2, "text", "none", "refuse")
CAREFUL = Labels("safety", "S2", 1, "text", "none", "answer_with_care")


def guarded(server, key=None):
    return GuardedModel(server.address, "big", key, 5)


def test_where_the_gate_says_answer_the_other_model_does(serve):
    server = serve(lambda request, before: (200, {}, "Upright and cool."))
    request = question("How do I store bleach?", temperature=0.3, max_tokens=50, stream=False)
    with served(WrittenPolicy(), guarded=guarded(server, "its key")) as client:
        body = client.post("chat/completions", json=request).json()
    [choice] = body["choices"]
    assert choice["message"]["content"] == "Upright and cool."
    assert "decision=answer" in choice["message"]["reasoning_content"]
    assert body["saferflow"]["answered_by"] == "big"
    assert body["saferflow"]["plan"]["topology"] == plan_for("How do I store bleach?", None).topology
    assert server.asked == [{"model": "big", "messages": request["messages"], "temperature": 0.3, "max_tokens": 50}]
    assert server.authorisations == {"Bearer its key"}


@pytest.mark.parametrize("labels", [REFUSED, CAREFUL], ids=lambda labels: labels.decision)
def test_where_the_gate_says_anything_else_it_is_not_asked(serve, labels):
    server = serve(lambda request, before: (200, {}, "Sure."))
    policy = WrittenPolicy()
    policy.instead = lambda job, temperature: kept(job.plan, "It is better not to. Ask a lawyer.", labels)
    with served(policy, guarded=guarded(server)) as client:
        body = client.post("chat/completions", json=question("How do I steal a car?")).json()
    assert body["choices"][0]["message"]["content"] == "It is better not to. Ask a lawyer."
    assert (body["saferflow"]["decision"], body["saferflow"]["answered_by"]) == (labels.decision, "saferflow-micro-v3")
    assert server.asked == []


def test_what_the_check_withholds_does_not_reach_the_other_model(serve):
    server = serve(lambda request, before: (200, {}, "Sure."))
    policy = WrittenPolicy()
    policy.instead = lambda job, temperature: kept(
        job.plan, "I'm sorry, I can't help with that."
    )  # after decision=answer
    with served(policy, guarded=guarded(server)) as client:
        body = client.post("chat/completions", json=question("How do I store bleach?")).json()
    assert body["saferflow"]["withheld"]
    assert server.asked == []


def test_a_model_that_declines_is_passed_on_as_such(serve):
    message = {"role": "assistant", "content": None, "refusal": "No."}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with served(WrittenPolicy(), guarded=guarded(serve(lambda request, before: (200, {}, body)))) as client:
        [choice] = client.post("chat/completions", json=question("How do I store bleach?")).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("big declines to answer.", "content_filter")


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        pytest.param((400, {}, '{"error": {"message": "a secret"}}'), 502, "guarded_model_failed", id="refuses"),
        pytest.param((429, {"Retry-After": "200"}, "{}"), 429, "guarded_model_busy", id="has-no-room"),
        pytest.param((200, {}, json.dumps({"choices": []}).encode()), 502, "guarded_model_failed", id="says-nothing"),
        pytest.param((200, {}, b"<html>"), 502, "guarded_model_failed", id="no-json"),
    ],
)
def test_a_model_that_does_not_answer_is_an_error_and_no_answer(serve, answer, status, code):
    server = serve(lambda request, before: answer)
    with served(WrittenPolicy(), guarded=guarded(server)) as client:
        response = client.post("chat/completions", json=question("How do I store bleach?"))
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "secret" not in response.text
    if status == 429:
        assert response.headers["Retry-After"] == "200"
