"""Runs the stages of a profile in a temporary folder, one after the other, until one fails.

The folder has parameters, tables and a checkpoint of its own; the stages run there as the pipeline runs them, and only the code
is the checkout's. Nothing is written outside of it.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from saferflow.params import Params
from saferflow.rehearsal.obstacles import obstacles
from saferflow.rehearsal.recipe import Machine, rehearsed
from saferflow.rehearsal.report import Report
from saferflow.rehearsal.run import Run
from saferflow.rehearsal.whole import whole_rows

EMBEDDED = "embedded"
TEXTS = 400
"""Drawn rows from which the tokenizer of a random checkpoint learns its words."""


def rehearse(
    root: Path,
    params: Params,
    *,
    steps: int,
    tokens: int,
    thin: bool,
    prompts: int | None,
    processes: int | None = None,
    say: Callable[[str], None],
) -> Report:
    """Rehearse a profile; the report holds the failures.

    Args:
        root: the checkout, which stays as it is.
        prompts: training rows of the whole run, where the profile's sources do not say.
        processes: rehearse with so many, and the profile's strategy; None for as many as there are GPUs for.

    Raises:
        PolicyError: the checkpoint is neither at hand nor of a known size.
    """
    with tempfile.TemporaryDirectory(prefix="saferflow-rehearsal-") as name:
        folder = Path(name)
        machine = look()
        base, checkpoint, layers = starting_checkpoint(params, folder, thin, say)
        recipe = rehearsed(params, machine, steps=steps, tokens=tokens, thin=thin, base=base, processes=processes)
        (folder / "data" / "sources").mkdir(parents=True)
        run = Run(root, folder, params, recipe, machine, layers, whole_rows(params, prompts))
        parts = tuple(run.parts(say))
        activations = {part.stage: part.beyond for part in parts if part.gpu}
        stops = obstacles(root, params, machine, run.whole, run.prompt, activations) if run.whole else []
        length = recipe.params.policy.max_completion_tokens
        return Report(
            params.run.profile, thin, checkpoint, recipe.replaced, length, parts, run.rows, run.scale, tuple(stops)
        )


def look() -> Machine:
    """The resources of this machine now."""
    import psutil
    import torch

    gpus = torch.cuda.device_count()
    memory = torch.cuda.mem_get_info(0)[0] if gpus else psutil.virtual_memory().available
    return Machine(gpus, memory)


def starting_checkpoint(
    params: Params, folder: Path, thin: bool, say: Callable[[str], None]
) -> tuple[str, str, tuple[int, int]]:
    """The starting checkpoint, its description, and the numbers of layers and vision blocks of the whole one."""
    if params.base is not None:
        return EMBEDDED, "built by stage base", (params.base.layers, params.base.vision_layers)

    from saferflow.rehearsal import checkpoint

    here = checkpoint.at_hand(params.policy.base)
    config = checkpoint.published_config(params.policy.base, here)
    text = config.get("text_config", config)
    layers = text.get("num_hidden_layers", config.get("num_hidden_layers")), config["vision_config"]["depth"]
    if here is not None and not thin:
        return str(here.resolve()), str(here), layers
    where = "random weights, " + (f"files of {here}" if here else "files written here in the published form")
    say(f"checkpoint  {where}")
    sized = checkpoint.cut(config) if thin else config
    checkpoint.write_checkpoint(folder / "checkpoint", sized, here, drawn_texts(params), params.run.seed)
    return str(folder / "checkpoint"), where, layers


def drawn_texts(params: Params) -> Iterator[str]:
    """System prompts, questions and traces of drawn rows."""
    from saferflow.data.scenes.corpus import safety_rows
    from saferflow.planner.rules import plan_for
    from saferflow.planner.teacher import write
    from saferflow.protocol.trace import render
    from saferflow.rng import rng

    for row in islice(safety_rows(TEXTS, params.run.seed, "train"), TEXTS):
        plan = plan_for(row.question, row.image)
        reference = write(plan, row.question, row.labels, row.answer, rng(params.run.seed, "rehearsal", row.id), 1.0)
        yield from (plan.system_prompt(params.plan.prompt_detail), row.question, render(reference))
