"""What `saferflow run` starts: says at once that nothing is to be done, or runs the main flow.

Prefect is imported where something has to run: a run with nothing to do is over before that import is.
"""

from pathlib import Path

from rich.console import Console

from flows.checkout import alone, prepared
from saferflow.cli import show
from saferflow.params import Params
from saferflow.release.registration import pending
from saferflow.tracking import graph, lineage, runs

console = Console(highlight=False, soft_wrap=True)


def close_abandoned(root: Path) -> None:
    """Close the MLflow runs of pipelines that were killed; call while holding the checkout's lock."""
    for run in runs.close_abandoned(lineage.checkout_id(root)):
        console.print(f"MLflow run {run} was left by a pipeline that did not end; it is marked KILLED")


def nothing_to_do(root: Path, params: Params) -> bool:
    """Say so if every stage is up to date and its policy registered."""
    if pending(root, params):
        return False
    console.print(f"nothing to do: all {len(graph.load_stages(root))} stages up to date")
    return True


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
