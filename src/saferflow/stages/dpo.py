"""Stage `dpo`: the SFT policy learns to prefer a good response to the same one perturbed.

Reads models/sft, data/tables/dpo.parquet. Writes models/dpo.
"""

from pathlib import Path

from saferflow.params import load_params
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_metrics

POLICY = Path("models/sft")
TABLE = Path("data/tables/dpo.parquet")
OUT = Path("models/dpo")


def main() -> None:
    params = load_params()

    from saferflow.training.launch import leads, spread

    spread("saferflow.stages.dpo", params.launch, params.policy)

    from saferflow.data.rows import DPORow
    from saferflow.data.tables import read_table
    from saferflow.tracking.live import log_metrics
    from saferflow.training.arguments import Job
    from saferflow.training.checkpoints import home
    from saferflow.training.dpo import train_dpo
    from saferflow.training.policy import load_model, load_processor
    from saferflow.training.preflight import refuse_cut_off

    rows = read_table(TABLE, DPORow)
    checkpoints = home("dpo", [TABLE, POLICY], [params.policy, params.launch, params.dpo], params.run.seed)
    job = Job(params.policy, params.launch, params.run.seed, OUT, checkpoints, log_metrics)
    model, processor = load_model(POLICY, params.policy), load_processor(POLICY, params.policy)
    reference = None if params.policy.lora else load_model(POLICY, params.policy)
    refuse_cut_off("dpo", processor.tokenizer, [(row.id, row.chosen) for row in rows], params.policy)
    metrics = train_dpo(model, reference, processor, rows, params.dpo, job)
    if leads():
        write_metrics("dpo", {"rows": len(rows), **metrics})


if __name__ == "__main__":
    run_stage(main)
