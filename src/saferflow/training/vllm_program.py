"""The program `vllm`: named by `SAFERFLOW_VLLM`, else beside this Python or on the path.

So vLLM may live in an environment of its own: it wants one release of transformers, and training may want another. Source: ours.
"""

import os
import shutil
import sys
from pathlib import Path

from saferflow.errors import PolicyError

PROGRAM = "SAFERFLOW_VLLM"
"""Environment variable with the path of the program."""


def program() -> str:
    """The path of the program `vllm`.

    Raises:
        PolicyError: there is none.
    """
    named, beside = os.environ.get(PROGRAM), Path(sys.executable).with_name("vllm")
    path = shutil.which(named or (str(beside) if beside.exists() else "vllm"))
    if path is None:
        what = f"{PROGRAM} names {named}, which is no program" if named else "vLLM is not installed"
        raise PolicyError(
            f"{what}: install it into an environment of its own (python -m venv /opt/vllm; /opt/vllm/bin/pip install vllm) "
            f"and set {PROGRAM}=/opt/vllm/bin/vllm; docs/serving.md, vLLM"
        )
    return path
