"""The whole way of a request: read, plan, queue, draw, check; one policy behind it."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastapi.concurrency import run_in_threadpool

from saferflow.params import Params
from saferflow.serving.answer import Answer, Times
from saferflow.serving.batching import Batcher
from saferflow.serving.guard import GUARDED, GuardedModel
from saferflow.serving.metrics import Metrics
from saferflow.serving.planning import Planner
from saferflow.serving.policy import Draw, Job, Policy, draw_checked
from saferflow.serving.record import Record
from saferflow.serving.refusal import Refusal
from saferflow.serving.request import Conversation, read_request
from saferflow.serving.tracing import Tracer
from saferflow.training.generate import Prompt

TOKEN_CHARACTERS = 128
"""Of the longest token of Qwen2.5's tokenizer: so long a text is at least one token."""


class System:
    """Planner, queue and policy of one server. Another policy may be put in the place of `policy` at any time.

    Args:
        guarded: a model that answers in the policy's place where the gate lets it.
        record: what is kept of answered requests; None: their drift cannot be told, and none is stored.
        tracer: writes a trace of each answered request; None: none is written.
    """

    def __init__(
        self,
        policy: Policy,
        params: Params,
        guarded: GuardedModel | None = None,
        record: Record | None = None,
        tracer: Tracer | None = None,
    ):
        self.record, self.tracer = record or Record(), tracer or Tracer()
        self.policy, self.params, self.metrics, self._guarded = policy, params, Metrics(), guarded
        self.follows: str | None = None
        """The alias whose version is served, wherever it moves; None stays with one version."""
        self.closing = threading.Event()
        """Set when the server goes down."""
        self.trouble: str | None = None
        """Why another version is served than the alias points to."""
        self._planner = Planner(params, self.metrics.fell_back)
        self._reader = ThreadPoolExecutor(
            1, "read"
        )  # one: opening a picture sets a value of PIL's that all threads see
        serve = params.serve
        batch, workers = (1, serve.batch) if policy.continuous else (serve.batch, 1)
        self._batches: Batcher[tuple[Policy, Job], Draw] = Batcher(
            self._draw, batch=batch, queue=serve.queue, gather=serve.gather_ms / 1000, seen=self.metrics.batch, workers=workers
        )

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return self._batches.waiting

    async def read(self, raw: bytes) -> Conversation:
        """The conversation of a request's body.

        Raises:
            Refusal: it is none that is answered here.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reader, read_request, raw, self.params.data)

    async def answer(self, conversation: Conversation) -> Answer:
        """The checked answer.

        Raises:
            Refusal: another model, too many tokens, no plan, a full queue, or no answer of a guarded model.
        """
        policy, arrived = self._named(conversation.model), time.time_ns()
        tokens = await run_in_threadpool(self._count, policy, conversation)
        planned = await run_in_threadpool(self._planner.plan, conversation.user_text, conversation.image)
        at_plan = time.time_ns()
        system = planned.plan.system_prompt(self.params.plan.prompt_detail)
        prompt = Prompt(system, conversation.question, conversation.image, conversation.earlier)
        draw = await asyncio.wrap_future(self._batches.submit((policy, Job(planned.plan, prompt))))
        answer = Answer(planned, draw, tokens, Times(arrived, at_plan, time.time_ns()))
        if self._guarded and not answer.withheld and answer.decision == GUARDED:
            answer = replace(answer, other=await self._guarded.answer(conversation))
        self.metrics.answer(answer.decision, answer.hazard, draw.redrawn or draw.violations, withheld=answer.withheld)
        return answer

    async def close(self) -> None:
        """Answer what waits, then end."""
        self.closing.set()
        await run_in_threadpool(self._batches.close)
        self._reader.shutdown()
        await run_in_threadpool(self.tracer.close)
        if self._guarded:
            await self._guarded.close()

    def _named(self, model: str | None) -> Policy:
        """The policy that a request's model names; it answers this request, whichever is served by then.

        Raises:
            Refusal: 404, it names another.
        """
        policy = self.policy
        if model is not None and model not in policy.identity.names:
            shown = ", ".join(policy.identity.listed)
            raise Refusal(404, "model_not_found", f"there is no model {model[:80]!r}; there is {shown}")
        return policy

    def _draw(self, jobs: Sequence[tuple[Policy, Job]]) -> list[Draw]:
        """The draws of a batch; one that spans a take-over is drawn in two parts."""
        draws: dict[int, Draw] = {}
        for policy in dict.fromkeys(policy for policy, _ in jobs):
            places = [place for place, (named, _) in enumerate(jobs) if named is policy]
            drawn = draw_checked(policy, [jobs[place][1] for place in places], self.params.serve.redraw_temperature)
            draws.update(zip(places, drawn, strict=True))
        return [draws[place] for place in range(len(jobs))]

    def _count(self, policy: Policy, conversation: Conversation) -> int:
        most, characters = self.params.serve.prompt_tokens, sum(map(len, conversation.texts))
        tokens = characters if characters > most * TOKEN_CHARACTERS else policy.count(conversation.texts)
        if tokens > most:
            raise Refusal(
                413,
                "too_many_tokens",
                f"the messages have more than {most:,} tokens (serve.prompt_tokens); send fewer turns",
            )
        return tokens
