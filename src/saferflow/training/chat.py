"""One question to a policy: plan, completion, and the check's verdict on it."""

from dataclasses import dataclass
from pathlib import Path

from saferflow.params import Params
from saferflow.planner.rules import plan_for
from saferflow.protocol.check import Violation, check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, parse
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import load_model, load_processor


@dataclass(frozen=True, slots=True)
class ChatReply:
    plan: Plan
    completion: str
    response: Response
    violations: tuple[Violation, ...]


def respond(
    folder: Path, image: bytes | None, question: str, params: Params, *, constrained: bool = False
) -> ChatReply:
    """Ask the policy in `folder`, greedily.

    Args:
        constrained: decode under the plan's grammar.

    Raises:
        PolicyError: no policy can be loaded from the folder.
    """
    processor = load_processor(folder, params.policy)
    model = load_model(folder, params.policy)
    plan = plan_for(question, image)
    plan = plan if params.plan.topologies else plan.linear()
    prompt = Prompt(plan.system_prompt(params.plan.prompt_detail), question, image)
    limit = params.policy.max_completion_tokens
    plans = [plan] if constrained else None
    [[completion]] = complete(model, processor, [prompt], batch_size=1, max_tokens=limit, plans=plans)
    return ChatReply(plan, completion, parse(completion), check(plan, completion))
