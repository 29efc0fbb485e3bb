"""The profiles of a project: complete sets of parameters that can take the place of params.yaml."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from saferflow.commands.project import PARAMS
from saferflow.errors import ParamsError

PROFILES = Path("profiles")


def use_profile(name: str) -> None:
    """Copy a profile over params.yaml, unless that would lose values which are nowhere else.

    Raises:
        ParamsError: there is no such profile, or params.yaml has changes that are not in git.
    """
    file = profile_file(name)
    if PARAMS.exists() and PARAMS.read_bytes() == file.read_bytes():
        return
    known = {path.read_bytes() for path in PROFILES.glob("*.yaml")}
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)], check=False, capture_output=True)
    if PARAMS.exists() and PARAMS.read_bytes() not in known and changed.returncode:
        raise ParamsError(f"{PARAMS} has changes that are not in git; commit it or put it aside, then choose a profile")
    shutil.copyfile(file, PARAMS)
    print(f"{PARAMS} is now {file}; to go back: git checkout -- {PARAMS}")


def profile_file(name: str) -> Path:
    """The file of a profile.

    Raises:
        ParamsError: there is no such profile; the message lists those that there are.
    """
    profiles = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in profiles:
        raise ParamsError(f"no profile {name!r}; there are: {', '.join(profiles) or 'none'}")
    return PROFILES / f"{name}.yaml"


def allow_guessed_labels() -> None:
    """Set plan.allow_guessed_labels in params.yaml, its comments kept, and say loudly what that means.

    Raises:
        ParamsError: params.yaml has no such line.
    """
    from saferflow.data.origins import RULE_PLANNER

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
