"""Stage `base`: the policy before alignment, with general ability and no safety behaviour.

Reads nothing but its params. Writes models/base.

Embedded profile: a small Qwen2.5-VL with a tokenizer trained on the training split, pre-trained on general visual
questions and on plain question-answer pairs without any protocol. Any other profile: a pointer to the published
checkpoint.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.layout import BASE, MODELS
from saferflow.params import LaunchParams, Params, PolicyParams, load_params
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics

if TYPE_CHECKING:
    from saferflow.data.rows import Row

OUT = MODELS / BASE
PACKAGE = Path(__file__).parents[1]
MAKES_ROWS = ("data/attacks", "data/distortions.py", "data/scenes", "planner", "protocol")
"""The code that the rows and the tokenizer come from."""
ALONE = LaunchParams(processes=1, nodes=1, rendezvous=None, strategy="ddp")
TOKENIZER_ROWS = 1500
"""At most so many protocol rows of the training split does the tokenizer see, beside as many pre-training rows or more."""


def main() -> None:
    """Run the stage."""
    params = load_params()
    if params.base is None:
        write_metrics("base", published(params.policy))
    else:
        write_metrics("base", pretrain(params))


def published(policy: PolicyParams) -> dict[str, float]:
    """Name the published checkpoint, and its commit, instead of copying its weights."""
    with imports():
        from saferflow.training.policy import point_to

    checkpoint, commit = point_to(OUT, policy.base, policy.revision)
    at = (
        f" at commit {commit}"
        if commit
        else ", whose commit cannot be told here"
        if not Path(checkpoint).exists()
        else ""
    )
    print(f"base  {checkpoint}{at} is used as published", flush=True)
    return {"published": 1}


def pretrain(params: Params) -> dict[str, float]:
    """Build the embedded policy, pre-train it, and return its metrics."""
    with imports():
        from saferflow.data.rows import SFTRow
        from saferflow.tracking.live import log_metrics
        from saferflow.training.arguments import Job
        from saferflow.training.embedded import build_model, build_processor, train_tokenizer
        from saferflow.training.homes import delete_others, home
        from saferflow.training.sft import train_sft

    base, seed = params.base, params.run.seed
    rows = pretraining_rows(params)
    texts = [text for row in rows for text in (row.question, row.answer)]
    tokenizer = train_tokenizer([*texts, *protocol_texts(params)], base.vocab_size)
    model = build_model(base, tokenizer, seed)
    size = model.num_parameters()
    print(f"base  {size:,} parameters, {len(tokenizer):,} tokens, {len(rows):,} rows", flush=True)
    made_by = [PACKAGE / name for name in MAKES_ROWS]
    checkpoints = home("base", made_by, [params.policy, base, params.plan], seed)
    delete_others(checkpoints)
    job = Job(
        policy=params.policy.model_copy(update={"lora": None}),
        launch=ALONE,
        seed=seed,
        out=OUT,
        checkpoints=checkpoints,
        log=log_metrics,
    )
    metrics = train_sft(
        "base",
        model,
        build_processor(tokenizer, params.policy),
        [SFTRow(r.id, r.source, "general", r.image, "", r.question, r.answer, "", "") for r in rows],
        base,
        job,
    )
    return {"parameters": size, "rows": len(rows), **metrics}


def pretraining_rows(params: Params) -> "list[Row]":
    """General questions and plain pairs in the order in which they are learned, a share of their pictures a little changed."""
    from saferflow.data.scenes.corpus import general_rows, knowledge_rows, plain_pairs
    from saferflow.planner.augmentation import with_distorted_image
    from saferflow.rng import rng

    base, seed = params.base, params.run.seed
    plain = round(base.rows * base.plain_share)
    knowledge = round(base.rows * base.knowledge_share)
    rows = [
        *general_rows(base.rows - plain - knowledge, seed, "base"),
        *plain_pairs(plain, seed),
        *knowledge_rows(knowledge, seed),
    ]
    if base.augment_images:
        draws = [rng(seed, "augment base", row.id) for row in rows]
        rows = [
            with_distorted_image(row, draw) if draw.random() < base.augment_images else row
            for row, draw in zip(rows, draws, strict=True)
        ]
    random.Random(seed).shuffle(rows)
    return rows


def protocol_texts(params: Params) -> list[str]:
    """System prompts, questions and reference traces of the training split as stage `plan` makes them: for the tokenizer."""
    from saferflow.data.scenes.corpus import safety_rows
    from saferflow.planner.augmentation import augmented
    from saferflow.planner.rules import plan_for
    from saferflow.planner.teacher import write
    from saferflow.protocol.trace import render
    from saferflow.rng import rng

    texts = []
    for plain in safety_rows(min(TOKENIZER_ROWS, params.base.rows), params.run.seed, "train"):
        row = augmented(plain, params.plan.augmentation, params.run.seed)
        plan = plan_for(row.question, row.image)
        reference = write(plan, row.question, row.labels, row.answer, rng(params.run.seed, "tokenizer", row.id), 1.0)
        texts += [plan.system_prompt(params.plan.prompt_detail), row.question, render(reference)]
    return texts


if __name__ == "__main__":
    run_stage(main)
