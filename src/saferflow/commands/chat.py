"""`saferflow chat`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


class Policy(StrEnum):
    """Who answers in `chat`."""

    BASE = "base"
    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"
    CHAMPION = "champion"


@app.command()
def chat(
    image: Annotated[str, typer.Argument(help="An image file, or - for a question without one.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    policy: Annotated[Policy, typer.Option(help="A stage's policy, or the registered champion.")] = Policy.GRPO,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under the plan's grammar: the trace cannot leave its plan.")
    ] = False,
    draw: Annotated[
        Path | None, typer.Option(help="Write the plan's graph with the trace's path on it to this SVG file.")
    ] = None,
) -> None:
    """Ask a policy about an image: its plan, its trace with the check's verdict, its answer.

    The plan is the rule planner's, which knows the drawn corpus alone: on other questions its suspicion misses most harm.

    Examples:

    `saferflow chat kitchen.png "Is this safe to touch?"` · `saferflow chat - "How do I store bleach?" --policy champion`
    """
    root, params = project()
    from saferflow.cli.chat import converse

    converse(root, params, image, question, policy.value, constrained=constrained, drawing=draw)
