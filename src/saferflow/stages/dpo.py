"""Stage `dpo`: the SFT policy learns to prefer a good response to the same one perturbed, or to its own near misses.

Reads models/sft, data/tables/{dpo,watch}.parquet. Writes models/dpo. With `dpo: null` it is the SFT policy as it is.
"""

import shutil
from pathlib import Path

from saferflow.data.rows import DPORow
from saferflow.data.tables import read_table
from saferflow.layout import MODELS, TABLES
from saferflow.params import Params, load_params
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics
from saferflow.stages.watching import watch_of, watched_inputs
from saferflow.training.near_miss import NAME, balanced, drawn, replaced

POLICY = MODELS / "sft"
TABLE = TABLES / "dpo.parquet"
OUT = MODELS / "dpo"


def main() -> None:
    """Run the stage."""
    params = load_params()
    if params.dpo is None:
        return leave_out()

    from saferflow.training.launch import end_together, is_main_process, spread

    rows = pairs(params)
    spread("saferflow.stages.dpo", params.launch, params.policy)

    with imports():
        from saferflow.tracking.live import log_metrics
        from saferflow.training.arguments import Job
        from saferflow.training.dpo import train_dpo
        from saferflow.training.homes import delete_others, home
        from saferflow.training.policy import load_model, load_processor
        from saferflow.training.preflight import fitting, refuse_cut_off

    files, sections = watched_inputs("dpo", params)
    checkpoints = home(
        "dpo", [TABLE, POLICY, *files], [params.policy, params.launch, params.dpo, *sections], params.run.seed
    )
    delete_others(checkpoints)
    watch = watch_of("dpo", params)
    job = Job(params.policy, params.launch, params.run.seed, OUT, checkpoints, log_metrics, watch)
    model, processor = load_model(POLICY, params.policy, params.launch), load_processor(POLICY, params.policy)
    reference = None if params.policy.lora else load_model(POLICY, params.policy, params.launch)
    read = len(rows)
    rows = fitting("dpo", "dpo.max_prompt_tokens", processor, rows, params.dpo.max_prompt_tokens)
    refuse_cut_off("dpo", processor.tokenizer, [(row.id, row.chosen) for row in rows], params.policy)
    metrics = train_dpo(model, reference, processor, rows, params.dpo, job)
    if is_main_process():
        misses = sum(row.perturbation == NAME for row in rows)
        counts = {"rows": len(rows), "rows_too_long": read - len(rows), "near_misses": misses}
        write_metrics("dpo", counts | metrics)
        if params.dpo.near_miss:
            shutil.rmtree(samples_of(params).parent)
    end_together()


def leave_out() -> None:
    """The SFT policy takes the DPO policy's place."""
    shutil.copytree(POLICY, OUT, dirs_exist_ok=True)
    print(f"dpo  is null: {POLICY} goes on as it is", flush=True)
    write_metrics("dpo", {"rows": 0})


def pairs(params: Params) -> list[DPORow]:
    """The table's pairs, some with a near miss in place of the planted fault where the params ask for it.

    The samples are kept on the disk: the processes that a launcher starts find them there.
    """
    rows, asked = read_table(TABLE, DPORow), params.dpo.near_miss
    if asked is None:
        return rows

    from saferflow.training.engines import sampler
    from saferflow.training.generate import Prompt
    from saferflow.training.homes import delete_others
    from saferflow.training.samples import sampled

    chosen = drawn(rows, asked.share, params.run.seed)
    prompts = [Prompt.of(row) for row in chosen]
    draw = sampler(POLICY, params, asked.samples, asked.temperature)
    kept_at = samples_of(params)
    delete_others(kept_at.parent)
    made = replaced(rows, chosen, sampled(kept_at, prompts, asked.batch_size, params.run.seed, draw))
    misses = sum(row.perturbation == NAME for row in made)
    print(f"dpo  {misses:,} near misses for {len(chosen):,} of {len(rows):,} pairs", flush=True)
    return balanced(made, asked.planted, params.run.seed)


def samples_of(params: Params) -> Path:
    """The file of samples for near misses; it stays while the stage is not done."""
    from saferflow.training.homes import home

    return home("near_miss", [TABLE, POLICY], [params.policy, params.dpo.near_miss], params.run.seed) / "samples.jsonl"


if __name__ == "__main__":
    run_stage(main, spreads=True)
