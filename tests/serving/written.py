"""The server on a socket, and a policy that answers with what it was asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx
import uvicorn

from saferflow.data.rows import Labels
from saferflow.params import load_params
from saferflow.planner import teacher
from saferflow.protocol.trace import Response, render
from saferflow.serving.app import build_app
from saferflow.serving.policy import Identity
from saferflow.serving.system import System
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.policy import save_policy

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
IDENTITY = Identity("saferflow-micro", 3, ("champion",), "abc.dir")
HARMLESS = Labels("safety", "none", 0, "none", "none", "answer")


class WrittenPolicy:
    """Keeps every plan; its batches can be held up, and completions can be put in the place of its own."""

    def __init__(self, continuous=False):
        self.identity, self.continuous = IDENTITY, continuous
        self.batches: list[list[str]] = []
        self.started, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.instead = lambda job, temperature: None

    def complete(self, jobs, temperature):
        self.batches.append([job.prompt.question for job in jobs])
        self.started.set()
        assert self.may_go_on.wait(60)
        return [self.instead(job, temperature) or kept(job.plan, echo(job.prompt.question)) for job in jobs]

    def count(self, texts):
        return sum(len(text.split()) for text in texts)


def kept(plan, answer, labels=HARMLESS):
    """A completion that keeps the plan and decides as the labels say, with an answer of one's own."""
    return render(Response(teacher.write(plan, "a question", labels, "", Random(1), 1.0).trace, answer))


def echo(question):
    return f"It was asked: {question}"


def save_untrained(folder):
    """A policy's folder: weights as they were drawn, and a tokenizer that knows little more than letters."""
    tokenizer = train_tokenizer(["what is in the picture"], MICRO.base.vocab_size)
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), build_processor(tokenizer, MICRO.policy))
    return folder


def params_with(**serve):
    return MICRO.model_copy(update={"serve": MICRO.serve.model_copy(update=serve)})


@contextmanager
def served(
    policy, params=MICRO, key=None, guarded=None, record=None, prepare=lambda system: None
) -> Iterator[httpx.Client]:
    """A client of a server on a port of its own."""
    system = System(policy, params, guarded, record)
    prepare(system)
    server = uvicorn.Server(uvicorn.Config(build_app(system, key), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1/", timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def question(text, picture=None, **fields):
    """A request's body with one message."""
    content = [{"type": "text", "text": text}]
    if picture:
        content.append({"type": "image_url", "image_url": {"url": picture}})
    return {"messages": [{"role": "user", "content": content}], **fields}
