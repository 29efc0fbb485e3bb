"""How a stage's module starts: errors raised on purpose are printed as such, without a traceback."""

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saferflow.errors import SaferflowError
from saferflow.shell import settle

SPINS = "10000"
"""How often a thread of OpenMP looks for its next work before it sleeps (GNU's own choice is 300,000 or for ever)."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Variables by which a user says how threads wait."""


def run_stage(main: Callable[[], None], *, spreads: bool = False) -> None:
    """Call a stage's `main`; exit with status 1 and the message of a `SaferflowError`.

    Args:
        spreads: `main` starts several processes where the params want them, and looks itself at what other launchers left.
    """
    settle(ranks=not spreads)
    bound_waiting()
    # TRL asks transformers by the former name, DeepSpeed torch, and that at each step.
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing`", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    try:
        main()
    except SaferflowError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


@contextmanager
def imports() -> Iterator[None]:
    """Around a stage's heavy imports: what they make stays, and looking for garbage among it is a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def bound_waiting() -> None:
    """Let the threads of OpenMP sleep soon where they wait for each other; call it before torch is imported.

    They look for work without pause until the last of them is done. Beside other processes that one waits for a core while its
    siblings burn theirs, and a stage takes many times its share. Nothing is changed where the user has chosen.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS
