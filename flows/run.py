"""The entry of `saferflow run`: reports that nothing is to be done, or runs the main flow.

Prefect is imported where something has to run: a run with nothing to do is over before that import is.
"""

from pathlib import Path

from flows.checkout import alone, close_abandoned, console, nothing_to_do, prepared
from saferflow.cli import show
from saferflow.tracking import graph


def _is_up_to_date(root: Path) -> bool:
    params = prepared(root)
    with alone(root):
        if graph.stale(root):
            return False
        close_abandoned(root)
        if not nothing_to_do(root, params):
            return False
        show.closing(console, root, params)
        return True


def run(force: tuple[str, ...] = ()) -> None:
    """Run the pipeline of the working directory if there is anything to do.

    Args:
        force: stages that run even if nothing changed.

    Raises:
        SaferflowError: the pipeline cannot run, or a stage failed.
        SystemExit: 130 after an interrupt.
    """
    root = Path.cwd()
    try:
        if not force and _is_up_to_date(root):
            return
    except KeyboardInterrupt:
        console.print("interrupted. Nothing had begun to run.")
        raise SystemExit(130) from None

    from flows.align import align
    from flows.bridge import bring_up_to_date, interruptible

    with interruptible("interrupted. Finished stages are kept; the next run goes on with the one that was not."):
        bring_up_to_date(align, root, force)
