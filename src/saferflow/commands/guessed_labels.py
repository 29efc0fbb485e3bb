"""`saferflow run --allow-guessed-labels`."""

import re
import sys

from saferflow.commands.project import PARAMS
from saferflow.data.origins import RULE_PLANNER
from saferflow.errors import ParamsError


def allow() -> None:
    """Set plan.allow_guessed_labels in params.yaml, its comments kept, and say loudly what that means.

    Raises:
        ParamsError: params.yaml has no such line.
    """
    text = PARAMS.read_text(encoding="utf-8")
    allowed, count = re.subn(r"(?m)^(  allow_guessed_labels:)[ \t]*(?:false|true)\b", r"\1 true", text)
    if count != 1:
        raise ParamsError(
            f"{PARAMS} has no line allow_guessed_labels in its section plan; add it: allow_guessed_labels: true"
        )
    if allowed != text:
        PARAMS.write_text(allowed, encoding="utf-8")
    print(
        f"WARNING: plan.allow_guessed_labels is true in {PARAMS}: {RULE_PLANNER}. Rows without labels are trained on its "
        "guesses, marked, and neither held out nor counted by the gate; to go back: set it to false",
        file=sys.stderr,
        flush=True,
    )
