"""A checked draw as a chat completion, whole or as a stream: the answer, its trace, and what stands behind it."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from saferflow.protocol.check import Violation
from saferflow.protocol.surface import find_blocks
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import parse
from saferflow.serving.guard import OtherAnswer
from saferflow.serving.planning import Planned
from saferflow.serving.policy import Draw

WITHHELD = "No answer: what the policy wrote does not keep its plan."
"""Stands for an answer that the check refused twice."""


@dataclass(frozen=True, slots=True)
class Times:
    """When a request got so far, nanoseconds since 1970."""

    arrived: int
    planned: int
    drawn: int
    """Its draw was checked, and a second one where there was one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What leaves the server for one request.

    Args:
        prompt_tokens: of the request's texts.
        other: another model's answer, where that is what leaves.
    """

    planned: Planned
    draw: Draw
    prompt_tokens: int
    times: Times
    other: OtherAnswer | None = None
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    """The completion's."""

    @property
    def withheld(self) -> bool:
        return bool(self.draw.violations)

    @property
    def decision(self) -> str:
        """The gate's."""
        return self._field(GATE, "decision")

    @property
    def hazard(self) -> str:
        """That the trace names, else the plan's suspicion."""
        return self._field("RISK-SCORER", "hazard") or self.planned.plan.hazard

    @property
    def severity(self) -> int:
        return int(self._field("RISK-SCORER", "severity") or self.planned.plan.severity)

    @property
    def message(self) -> dict[str, Any]:
        if self.withheld:
            reason = "; ".join(str(violation) for violation in self.draw.violations)
            return {"role": "assistant", "content": WITHHELD, "refusal": f"the check refused it: {reason}"}
        other = {"content": self.other.content} if self.other else {}
        return {"role": "assistant", **parts(self.draw.completion), **other}

    @property
    def finish_reason(self) -> str:
        if self.withheld:
            return "content_filter"
        return self.other.finish_reason if self.other else "stop"

    @property
    def account(self) -> dict[str, Any]:
        """The field `saferflow`: plan, verdict and version."""
        identity = self.draw.identity
        verdict = {} if self.withheld else {"decision": self.decision, "hazard": self.hazard, "severity": self.severity}
        return {
            "plan": asdict(self.planned.plan),
            "planner": self.planned.planner,
            **verdict,
            "violations": violation_rows(self.draw.violations),
            "redrawn": violation_rows(self.draw.redrawn),
            "withheld": self.withheld,
            "answered_by": self.other.model if self.other else identity.name,
            "version": identity.number,
            "digest": identity.digest,
        }

    def _field(self, tool: str, name: str) -> str:
        return next((call.get(name) for call in self.draw.response.trace if call.tool == tool), "")


def completion(answer: Answer) -> dict[str, Any]:
    """Source: OpenAI's API reference, chat completion object; `reasoning_content` is vLLM's field, `saferflow` ours."""
    choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish_reason, "logprobs": None}
    return {
        **_head("chat.completion", answer),
        "choices": [choice],
        "usage": _usage(answer),
        "saferflow": answer.account,
    }


def stream(answer: Answer) -> Iterator[str]:
    """The same as server-sent events: role, trace, answer, then the end with the field `saferflow`."""
    head = _head("chat.completion.chunk", answer)
    message = answer.message
    deltas = [{"role": message.pop("role"), "content": ""}]
    deltas += [{name: message[name]} for name in sorted(message, reverse=True)]  # the trace before the answer
    for delta in deltas:
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    end = {"index": 0, "delta": {}, "finish_reason": answer.finish_reason}
    yield _event({**head, "choices": [end], "usage": _usage(answer), "saferflow": answer.account})
    yield "data: [DONE]\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, written = answer.prompt_tokens, answer.draw.tokens + (answer.other.tokens if answer.other else 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _head(kind: str, answer: Answer) -> dict[str, Any]:
    name = answer.draw.identity.name
    return {"id": answer.id, "object": kind, "created": int(time.time()), "model": name}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def parts(text: str) -> dict[str, str]:
    """A completion's answer and trace, by the names that they have in a message."""
    thinking = find_blocks(text).thinking
    trace = text[thinking.start : thinking.end].strip() if thinking else ""
    return {"content": parse(text).answer, "reasoning_content": trace}


def violation_rows(violations: Iterable[Violation]) -> list[dict[str, Any]]:
    """Violations as JSON."""
    return [{"code": one.code, "line": one.line, "step": one.step, "message": one.message} for one in violations]
