"""A registered version behind a vLLM server of its own: completions under their plans' grammars. Source: ours."""

import logging
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from saferflow.errors import PolicyError
from saferflow.params import PolicyParams
from saferflow.serving.policy import Identity, Job
from saferflow.training.encoding import text_ids
from saferflow.training.policy import load_processor
from saferflow.training.vllm_server import VLLMServer

LOG = logging.getLogger("uvicorn.error")


class VLLMPolicy:
    """A policy in a vLLM server, which is started anew where it has ended.

    Args:
        log: the file for vLLM's log.
        arguments: further options of `vllm serve`.

    Raises:
        PolicyError: vLLM is not installed, or does not take the policy.
    """

    continuous = True

    def __init__(self, folder: Path, identity: Identity, params: PolicyParams, log: Path, arguments: Sequence[str] = ()):
        self.identity, self._limit = identity, params.max_completion_tokens
        self._tokenizer = load_processor(folder, params).tokenizer
        self._start = partial(VLLMServer, folder, params, log, arguments)
        self._server, self._restarting = self._start(), threading.Lock()

    def complete(self, jobs: Sequence[Job], temperature: float | None) -> list[str]:
        return [self._complete(job, temperature) for job in jobs]

    def count(self, texts: Sequence[str]) -> int:
        return sum(map(len, text_ids(self._tokenizer, texts)))

    def _complete(self, job: Job, temperature: float | None) -> str:
        server = self._server
        ask = partial(VLLMServer.complete, prompt=job.prompt, plan=job.plan, max_tokens=self._limit, temperature=temperature)
        try:
            [text] = ask(server)
        except PolicyError as error:
            if server.alive:
                raise
            [text] = ask(self._restarted(server, error))
        return text

    def _restarted(self, ended: VLLMServer, error: PolicyError) -> VLLMServer:
        with self._restarting:
            if self._server is ended:
                LOG.warning("vLLM is started anew: %s", error)
                self._server = self._start()
        return self._server
