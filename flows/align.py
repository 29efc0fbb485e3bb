"""The main flow: from the base policy to a registered, gated one."""

from prefect import flow

from flows.bridge import Closing, pipeline


@flow(name="align")
def align(force: tuple[str, ...] = ()) -> Closing:
    """Run one task per stage, in order. DVC decides which stages have work to do; the stages in `force` run anyway."""
    with pipeline(force) as run:
        run.stage("base")
        run.stage("plan")
        run.stage("validate")
        run.stage("sft")
        run.stage("dpo")
        run.stage("curate")
        run.stage("grpo")
        run.stage("evaluate")
        run.stage("gate")
        return run.register()
