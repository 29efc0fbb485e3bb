"""A stage on a GPU node: a worker of the work pool runs this flow in the node's own clone. docs/cluster.md"""

import subprocess
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.states import Completed, State

from flows import process
from flows.checkout import alone, prepared
from flows.reproduce import reproduce
from saferflow.errors import PipelineError
from saferflow.tracking import environment, graph, lineage, live

SENT = (*lineage.OWN_OUTPUT, "params.yaml")
"""Files that come with the order; a change in them is not local work on this node."""


@flow(name="stage")
def stage(
    name: str, commit: str, files: dict[str, str], run: str, force: bool = False, seconds: float | None = None
) -> State:
    """Check out the commit and the files of the order, pull the stage's inputs, run it, push its outputs.

    Args:
        files: path -> text: params.yaml, dvc.lock and the metrics that the stage reads.
        run: the MLflow run that the stage's process writes its curves to.
        seconds: what the budget leaves.
    """
    root = Path.cwd()
    environment.prepare(root=root)
    logger = get_run_logger()

    def on_line(line: str) -> None:
        logger.info("%s │ %s", name, line)

    with alone(root):
        take_up(root, commit, files)
        prepared(root)
        stages = graph.load_stages(root)
        inputs = sorted(graph.parents(stages[name], stages))
        dvc(root, "pull", "--run-cache", *inputs, *sources(root, name))
        outcome = reproduce(root, name, run, on_line, force=force, seconds=seconds)
        live.send_left(run)
        give(root, name)
    return Completed(message=outcome)


def take_up(root: Path, commit: str, files: dict[str, str]) -> None:
    """Check out a commit and put the files of the order in their places.

    Raises:
        PipelineError: this clone has uncommitted changes, or the commit cannot be fetched.
    """
    if changed := [path for path in lineage.changed(root) if not path.startswith(SENT)]:
        raise PipelineError(
            f"{root} has changes that are not committed ({', '.join(changed[:5])}); a worker wants a clone of its own"
        )
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        _git(root, "fetch", "--quiet", "--all")
    done = _git(root, "checkout", "--quiet", "--force", "--detach", commit)
    if done.returncode:
        raise PipelineError(
            f"commit {commit} is not in {root} and not where it was cloned from; git push it: {done.stderr.strip()[-300:]}"
        )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def sources(root: Path, stage: str) -> list[str]:
    """The DVC pointer files of the sources that the stage reads."""
    if not any(dep.startswith("data/sources") for dep in graph.load_stages(root)[stage].deps):
        return []
    return sorted(str(path.relative_to(root)) for path in (root / "data" / "sources").glob("*.dvc"))


def give(root: Path, stage: str) -> None:
    """Push a stage's outputs, so that another checkout can restore them without its dvc.lock.

    `dvc push --run-cache` leaves out what git keeps (metrics), and without it DVC restores nothing of the stage.

    Raises:
        PipelineError: the remote does not take it.
    """
    from dvc.repo import Repo

    dvc(root, "push", "--run-cache", stage)
    with Repo(str(root)) as repo:
        in_git = {out.hash_info for out in repo.stage.load_one(str(root / "dvc.yaml"), stage).outs if not out.use_cache}
        if repo.cloud.push(in_git).failed:
            raise PipelineError(
                f"the remote did not take the metrics of stage {stage}; what is done here stays, run again"
            )


def dvc(root: Path, *arguments: str) -> None:
    """Move data between this checkout and the remote.

    Raises:
        PipelineError: with DVC's last lines.
    """
    lines: list[str] = []
    status = process.run([*graph.DVC, *arguments], root, root / "logs" / "remote.log", {}, lines.append)
    if status:
        tail = "\n".join(lines[-8:])
        raise PipelineError(f"dvc {arguments[0]} failed (exit status {status}); what is done here stays:\n{tail}")


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
