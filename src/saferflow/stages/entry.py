"""How a stage's module starts: errors raised on purpose are printed as such, without a traceback."""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saferflow.errors import SaferflowError
from saferflow.parallel import bound_waiting


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's `main`; exit with status 1 and the message of a `SaferflowError`."""
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
