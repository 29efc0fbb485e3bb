"""The profiles of a project: complete sets of parameters that can take the place of params.yaml."""

import re
import subprocess
from pathlib import Path

import yaml

from saferflow.commands.project import PARAMS
from saferflow.errors import ParamsError
from saferflow.params import EXTENDS, read_values

PROFILES = Path("profiles")


def use_profile(name: str) -> None:
    """Write a complete profile over params.yaml, unless that would lose values that are stored nowhere else.

    Raises:
        ParamsError: there is no such profile, or params.yaml has changes that are not in git.
    """
    profile = complete(profile_file(name))
    held = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else None
    if held == profile:
        return
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)], check=False, capture_output=True)
    if held is not None and held not in map(complete, profile_files()) and changed.returncode:
        raise ParamsError(f"{PARAMS} has changes that are not in git; commit it or put it aside, then choose a profile")
    PARAMS.write_text(profile, encoding="utf-8")
    print(f"{PARAMS} is now the profile {name}; to go back: git checkout -- {PARAMS}")


def complete(file: Path) -> str:
    """The complete text of a profile for params.yaml: the file itself, or, if it extends another, both merged."""
    text = file.read_text(encoding="utf-8")
    if not re.search(rf"(?m)^{EXTENDS}:", text):
        return text
    values = yaml.safe_dump(read_values(file), sort_keys=False, allow_unicode=True)
    return f"# {file}, complete. Sources of its values: there. Types and bounds: src/saferflow/params.py.\n{values}"


def profile_file(name: str) -> Path:
    """The file of a profile.

    Raises:
        ParamsError: there is no such profile; the message lists the profiles.
    """
    files = {file.stem: file for file in profile_files()}
    if name not in files:
        raise ParamsError(f"no profile {name!r}; there are: {', '.join(files) or 'none'}")
    return files[name]


def profile_files() -> list[Path]:
    """The files of all profiles, sorted by name."""
    return sorted(PROFILES.glob("*.yaml"))
