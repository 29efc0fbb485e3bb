"""Answers questions with a policy that is loaded once: plan, completion, and violations."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration

from saferflow.params import Params
from saferflow.planner.rules import plan_for
from saferflow.protocol.check import Violation, check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, parse
from saferflow.training.drafts import Drafter
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import device, load_model, load_processor
from saferflow.training.processor import Qwen2_5_VLProcessor

Step = Callable[[str], AbstractContextManager[Any]]
"""Opens a step of an answer by its name (`plan`, `generate` or `check`), as a span of a trace does."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A policy's answer to a question."""

    plan: Plan
    completion: str
    response: Response
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A loaded policy that answers greedily."""

    model: Qwen2_5_VLForConditionalGeneration
    processor: Qwen2_5_VLProcessor
    params: Params

    def plan(self, image: bytes | None, question: str) -> Plan:
        """The plan of a question; `image` is an encoded image, or None."""
        plan = plan_for(question, image)
        return plan if self.params.plan.topologies else plan.linear()

    def complete(
        self,
        plan: Plan,
        image: bytes | None,
        question: str,
        *,
        constrained: bool = False,
        hear: Callable[[str], None] | None = None,
    ) -> str:
        """The completion under a plan.

        Args:
            constrained: decode under the plan's grammar.
            hear: gets the completion so far after each forward pass.
        """
        prompt = Prompt(plan.system_prompt(self.params.plan.prompt_detail), question, image)
        [[completion]] = complete(
            self.model,
            self.processor,
            [prompt],
            batch_size=1,
            max_tokens=self.params.policy.max_completion_tokens,
            plans=[plan] if constrained else None,
            drafter=_Listening(self.processor, hear) if hear else None,
        )
        return completion

    def reply(
        self,
        image: bytes | None,
        question: str,
        *,
        constrained: bool = False,
        step: Step = lambda name: nullcontext(),
    ) -> ChatReply:
        """Answer one question, and open a `step` for each step of the answer."""
        with step("plan"):
            plan = self.plan(image, question)
        with step("generate"):
            completion = self.complete(plan, image, question, constrained=constrained)
        with step("check"):
            violations = check(plan, completion)
        return ChatReply(plan, completion, parse(completion), violations)


class _Listening(Drafter):
    """Reports a completion's text while it learns its tokens; drafts change the number of passes, never the text."""

    def __init__(self, processor: Qwen2_5_VLProcessor, hear: Callable[[str], None]):
        super().__init__()
        self._processor, self._hear = processor, hear

    def learn(self, text: Sequence[int], new: int) -> None:
        super().learn(text, new)
        self._hear(self._processor.tokenizer.decode(text, skip_special_tokens=True))


def load(folder: Path, params: Params) -> Speaker:
    """Load the policy in `folder`.

    Raises:
        PolicyError: no policy can be loaded from the folder.
    """
    processor = load_processor(folder, params.policy)
    return Speaker(load_model(folder, params.policy).to(device(params.policy)), processor, params)
