"""How a stage's module starts: errors raised on purpose are printed as such, without a traceback."""

import sys
import warnings
from collections.abc import Callable

from saferflow.errors import SaferflowError


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's `main`; exit with status 1 and the message of a `SaferflowError`."""
    # TRL asks transformers by the former name.
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing`", category=FutureWarning)
    try:
        main()
    except SaferflowError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
