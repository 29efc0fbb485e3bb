"""Stage `grpo`: the DPO policy improves on its own rollouts, judged and rewarded.

Reads models/dpo, data/curated.parquet, data/tables/watch.parquet. Writes models/grpo, reports/rollouts.jsonl.

With `grpo.reflection`, unsafe rollouts are reflected on and corrected [V]; without it this is plain GRPO [K].
"""


from saferflow.layout import MODELS, PROMPTS, ROLLOUTS
from saferflow.params import load_params
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics
from saferflow.stages.watching import watch_of, watched_inputs

POLICY = MODELS / "dpo"
OUT = MODELS / "grpo"


def main() -> None:
    """Run the stage."""
    params = load_params()

    from saferflow.training.launch import end_together, is_main_process, spread

    spread("saferflow.stages.grpo", params.launch, params.policy)

    with imports():
        from saferflow.data.rows import PromptRow
        from saferflow.data.tables import read_table
        from saferflow.judge.choice import judge_of
        from saferflow.rewards.judged import judged_ahead, reward_functions
        from saferflow.tracking.live import log_metrics
        from saferflow.training.arguments import Job
        from saferflow.training.grpo import fill_a_batch, train_grpo
        from saferflow.training.homes import delete_others, home
        from saferflow.training.policy import load_model, load_processor
        from saferflow.training.reflection import judged_reflection

    rows = read_table(PROMPTS, PromptRow)
    fill_a_batch(len(rows), params.grpo)  # before the weights are read
    files, sections = watched_inputs("grpo", params)
    checkpoints = home(
        "grpo", [PROMPTS, POLICY, *files], [params.policy, params.launch, params.grpo, *sections], params.run.seed
    )
    delete_others(checkpoints)
    watch = watch_of("grpo", params)
    job = Job(params.policy, params.launch, params.run.seed, OUT, checkpoints, log_metrics, watch)
    model, processor = load_model(POLICY, params.policy, params.launch), load_processor(POLICY, params.policy)
    judge = judge_of(params.judge)
    rewards = reward_functions(params.grpo, judge, rows)
    metrics = train_grpo(
        model,
        processor,
        rows,
        rewards,
        params.grpo,
        job,
        ROLLOUTS,
        judged_reflection(params.grpo, judge, rows, rewards),
        judged_ahead(params.grpo, judge, rows) if params.judge.kind != "rules" else None,
    )
    if is_main_process():
        write_metrics("grpo", {"rows": len(rows), **metrics})
    end_together()


if __name__ == "__main__":
    run_stage(main, spreads=True)
