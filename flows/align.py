"""The main flow: from the base policy to a registered, gated one."""

from prefect import flow

from flows.bridge import Closing, pipeline


@flow(name="align")
def align(force: tuple[str, ...] = ()) -> Closing:
    """One task a stage, in order. DVC decides which of them has anything to do; `force` names some that run anyway."""
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
