"""A registered version, loaded: completions under their plans' grammars, checked, and drawn once more where the check refuses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from saferflow.params import PolicyParams
from saferflow.planner.rules import plan_for
from saferflow.protocol.check import Violation, check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, parse
from saferflow.training.drafts import Drafter
from saferflow.training.encoding import text_ids
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import device, load_model, load_processor

WARMING = "What can you help with?"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which version it is."""

    model: str
    number: int
    aliases: tuple[str, ...]
    digest: str
    """DVC's hash of its files."""

    @property
    def name(self) -> str:
        return f"{self.model}-v{self.number}"

    @property
    def listed(self) -> tuple[str, ...]:
        """The names that callers are shown."""
        return (self.name, *self.aliases)

    @property
    def names(self) -> tuple[str, ...]:
        """By which a request may name it."""
        return (*self.listed, f"v{self.number}", self.model)


@dataclass(frozen=True, slots=True)
class Job:
    """A planned request."""

    plan: Plan
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Draw:
    """A policy's completion with the check's verdict on it."""

    identity: Identity
    completion: str
    violations: tuple[Violation, ...]
    tokens: int
    redrawn: tuple[Violation, ...] = ()
    """For which the first completion was refused; empty where it was not."""
    first: str = ""
    """That completion."""

    @property
    def response(self) -> Response:
        return parse(self.completion)


class Policy(Protocol):
    """What the server asks of a policy."""

    identity: Identity
    continuous: bool
    """Whether it batches by itself: jobs are then handed to it as they come, each on its own."""

    def complete(self, jobs: Sequence[Job], temperature: float | None) -> list[str]:
        """A completion a job, in their order; without a temperature the likeliest."""

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of the texts."""


def warm(policy: Policy) -> None:
    """Answer a question to nobody, so that the first caller does not wait for what is made at first use."""
    plan = plan_for(WARMING, None)
    policy.complete([Job(plan, Prompt(plan.system_prompt("brief"), WARMING, None))], None)


def draw_checked(policy: Policy, jobs: Sequence[Job], redraw_temperature: float) -> list[Draw]:
    """A draw a job: greedy, as the policy was evaluated; what the check refuses is drawn once more, by chance."""
    draws = _draw(policy, jobs, None)
    refused = [place for place, draw in enumerate(draws) if draw.violations]
    if refused:
        again = _draw(policy, [jobs[place] for place in refused], redraw_temperature)
        for place, draw in zip(refused, again, strict=True):
            first = draws[place]
            tokens = first.tokens + draw.tokens
            draws[place] = replace(draw, redrawn=first.violations, first=first.completion, tokens=tokens)
    return draws


def _draw(policy: Policy, jobs: Sequence[Job], temperature: float | None) -> list[Draw]:
    return [
        Draw(policy.identity, text, check(job.plan, text), policy.count([text]))
        for job, text in zip(jobs, policy.complete(jobs, temperature), strict=True)
    ]


class LoadedPolicy:
    """A policy in this process, which speaks under its plans' grammars.

    Raises:
        PolicyError: no policy can be loaded from the folder.
    """

    continuous = False

    def __init__(self, folder: Path, identity: Identity, params: PolicyParams):
        self.identity, self._limit = identity, params.max_completion_tokens
        self._processor = load_processor(folder, params)
        self._model = load_model(folder, params).to(device(params))
        self._drafter = Drafter()

    def complete(self, jobs: Sequence[Job], temperature: float | None) -> list[str]:
        completions = complete(
            self._model,
            self._processor,
            [job.prompt for job in jobs],
            batch_size=len(jobs),
            max_tokens=self._limit,
            temperature=temperature,
            plans=[job.plan for job in jobs],
            drafter=self._drafter,
        )
        return [text for [text] in completions]

    def count(self, texts: Sequence[str]) -> int:
        return sum(map(len, text_ids(self._processor.tokenizer, texts)))
