"""What `saferflow run` starts: says at once that nothing is to be done, or runs the main flow. `python -m flows.run`

Prefect is imported where something has to run: a run with nothing to do is over before that import is.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.checkout import alone, prepared
from saferflow.cli import show
from saferflow.errors import SaferflowError
from saferflow.params import Params
from saferflow.release.registration import pending
from saferflow.tracking import graph, lineage, runs, trouble

console = Console(highlight=False, soft_wrap=True)


def arguments(argv: list[str] | None) -> tuple[str, ...]:
    """The stages that run even if nothing changed."""
    parser = argparse.ArgumentParser(prog="python -m flows.align", description="Bring the whole pipeline up to date.")
    parser.add_argument(
        "--force", metavar="STAGE", action="append", default=[], help="run this stage even if unchanged"
    )
    return tuple(parser.parse_args(argv).force)


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


def main(argv: list[str] | None = None) -> int:
    """Run the pipeline if there is anything to do.

    Returns:
        Exit status: 0, 1 after a failure, 130 after an interrupt.
    """
    try:
        if not arguments(argv) and _is_up_to_date(Path.cwd()):
            return 0
    except SaferflowError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {error}", style="red"))
        return 1
    except Exception as error:
        if (told := trouble.explained(error)) is None:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {told}", style="red"))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted. Nothing had begun to run.")
        return 130

    from flows.align import align
    from flows.bridge import main as bring_up_to_date

    return bring_up_to_date(align, argv)


if __name__ == "__main__":
    raise SystemExit(main())
