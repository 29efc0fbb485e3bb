"""Stage `sft`: the base policy learns the protocol from reference traces and answers.

Reads models/base, data/tables/{sft,watch}.parquet. Writes models/sft.
"""

from pathlib import Path

from saferflow.params import load_params
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics
from saferflow.stages.watching import watch_of, watched_inputs

BASE = Path("models/base")
TABLE = Path("data/tables/sft.parquet")
OUT = Path("models/sft")


def main() -> None:
    params = load_params()

    from saferflow.training.launch import end_together, is_main_process, spread

    spread("saferflow.stages.sft", params.launch, params.policy)

    with imports():
        from saferflow.data.incidents import repeated
        from saferflow.data.rows import SFTRow
        from saferflow.data.tables import read_table
        from saferflow.tracking.live import log_metrics
        from saferflow.training.arguments import Job
        from saferflow.training.homes import delete_others, home
        from saferflow.training.policy import load_model, load_processor
        from saferflow.training.preflight import fitting, refuse_cut_off
        from saferflow.training.sft import train_sft

    rows = read_table(TABLE, SFTRow)
    files, sections = watched_inputs("sft", params)
    checkpoints = home(
        "sft", [TABLE, BASE, *files], [params.policy, params.launch, params.sft, *sections], params.run.seed
    )
    delete_others(checkpoints)
    watch = watch_of("sft", params)
    job = Job(params.policy, params.launch, params.run.seed, OUT, checkpoints, log_metrics, watch)
    model, processor = load_model(BASE, params.policy, params.launch), load_processor(BASE, params.policy)
    read = len(rows)
    rows = fitting("sft", "sft.max_prompt_tokens", processor, rows, params.sft.max_prompt_tokens)
    refuse_cut_off("sft", processor.tokenizer, [(row.id, row.completion) for row in rows], params.policy)
    shown = repeated(rows, params.sft.incident_repeats, params.sft.topology_repeats)
    metrics = train_sft("sft", model, processor, shown, params.sft, job)
    if is_main_process():
        counts = {"rows": len(rows), "rows_too_long": read - len(rows), "rows_repeated": len(shown) - len(rows)}
        write_metrics("sft", {**counts, **metrics})
    end_together()


if __name__ == "__main__":
    run_stage(main, spreads=True)
