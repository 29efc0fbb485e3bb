"""How far the pipeline's scores depend on luck: the whole pipeline for several seeds, each under several arithmetics.

    python benchmarks/seeds.py --seeds 11,12,13,14,15 --arithmetic native,generic --out ../luck
    python benchmarks/seeds.py --seeds 11,12,13 --out ../dpo --variant recipe: --variant no-dpo:dpo=null

Another seed draws other data and another order of training. Another arithmetic rounds otherwise, as another processor would:
native (as torch computes here), generic (without vector instructions), compatible (MKL's slow, common way), avx2, avx512 and
one-thread; one that this machine cannot do, or that gives the digits of another one, is refused.

Each run has a checkout of the commit under OUT/runs and goes through the stages of dvc.yaml by DVC; servers are not started.
Runs share one cache: plan and validate of a seed run once, and stages that two variants have in common run once under each
arithmetic. A training result is never taken from another arithmetic. Give the same command again after a kill: finished
stages stay, and a training stage goes on from its checkpoint. More seeds, arithmetics and variants can be added to OUT later.

OUT/seeds.json and OUT/seeds.md are written anew after every run: each measure of each policy by run, mean, lowest, highest,
spread; the gate; seconds; and paired differences (SFT − base, DPO − SFT, GRPO − DPO; each variant − the first) with t intervals
over seeds, a seed's arithmetics averaged first. Source: ours.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.spread import report, tables  # noqa: E402
from benchmarks.spread.arguments import names, positive, seeds, variant  # noqa: E402
from benchmarks.spread.arithmetics import SETTINGS, Arithmetic, measured  # noqa: E402
from benchmarks.spread.checkouts import clone  # noqa: E402
from benchmarks.spread.execution import Watcher, carried_out  # noqa: E402
from benchmarks.spread.figures import ORDER  # noqa: E402
from benchmarks.spread.progress import Progress  # noqa: E402
from benchmarks.spread.records import Record  # noqa: E402
from benchmarks.spread.runs import Benchmark, Run  # noqa: E402
from saferflow.cli.show import duration  # noqa: E402
from saferflow.errors import ParamsError, PipelineError, SaferflowError  # noqa: E402
from saferflow.evaluation.ablation import custom  # noqa: E402
from saferflow.params import load_params  # noqa: E402
from saferflow.stages.metrics import write_json  # noqa: E402
from saferflow.tracking import graph  # noqa: E402

EMBEDDED = "embedded"
"""The profile that `params.yaml` holds."""
POLL = 0.1
"""Seconds between two looks at the processes."""
RECIPE = "recipe"
"""The only variant, where none is named."""
COMPUTING = ("src", "flows", "dvc.yaml", "params.yaml", "profiles")
"""What of the repository a run's figures depend on."""
WIDTH = 150
"""Columns of the closing tables where the terminal has fewer."""


def main() -> int:
    """Carry out what is left of the benchmark and report it.

    Returns:
        Exit status: 0, 1 where a run failed or nothing could start, 130 after an interrupt.
    """
    arguments = parsed(sys.argv[1:])
    console = Console(highlight=False, soft_wrap=True)
    try:
        return measure(arguments, console)
    except SaferflowError as error:
        console.print(Text(f"error: {error}", "red"))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted. Finished stages are kept; the same command goes on.")
        return 130


def measure(arguments: argparse.Namespace, console: Console) -> int:
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / "lock", timeout=0):
            benchmark = benchmark_of(arguments, out)
            recipes = recipes_of(arguments, benchmark)  # a wrong name is known before anything is measured
            if changes := _git(ROOT, "status", "--porcelain", "--", *COMPUTING):
                console.print(f"not committed, and so without effect here:\n{changes}")
            shell = dict(os.environ)
            arithmetics = measured(arguments.arithmetic, shell, arguments.threads)
            describe(arithmetics, console)
            runs = [
                Run(variant, seed, arithmetic, recipes[variant, seed])
                for seed in arguments.seeds
                for arithmetic in arithmetics.values()
                for variant in dict.fromkeys(variant for variant, _ in recipes)
            ]
            refuse_strangers(benchmark, runs)
            about = {"date": date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}

            def write() -> dict:
                figures = report.of(benchmark, runs, arithmetics, about)
                write_json(out / "seeds.json", figures)
                (out / "seeds.md").write_text(report.page(figures), encoding="utf-8")
                return figures

            carry_out(benchmark, runs, shell, Progress(console, benchmark, runs, arguments.jobs), arguments.jobs, write)
            figures = write()
    except Timeout:
        raise PipelineError(f"another benchmark is at work in {out}; wait for it, or give another --out") from None
    close(figures, out, console)
    return 1 if figures["unfinished"] else 0


def carry_out(
    benchmark: Benchmark,
    runs: Sequence[Run],
    shell: Mapping[str, str],
    watcher: Watcher,
    jobs: int,
    write: Callable[[], object],
) -> None:
    """Carry the runs out, `jobs` at a time; those of one seed and arithmetic one after the other, for they share stages."""
    chains: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        chains.setdefault((run.seed, run.arithmetic.name), []).append(run)
    waiting = [_chain(benchmark, chain, shell, watcher, write) for chain in chains.values()]
    active: list[Iterator[None]] = []
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                active.append(waiting.pop(0))
            active = [chain for chain in active if next(chain, StopIteration) is not StopIteration]
            time.sleep(POLL)
    finally:
        for chain in active:
            chain.close()


def _chain(
    benchmark: Benchmark, runs: Sequence[Run], shell: Mapping[str, str], watcher: Watcher, write: Callable[[], object]
) -> Iterator[None]:
    for run in runs:
        with closing(carried_out(benchmark, run, shell, watcher)) as steps:
            yield from steps
        write()


def benchmark_of(arguments: argparse.Namespace, out: Path) -> Benchmark:
    """The benchmark in `out`, begun or gone on with.

    Raises:
        PipelineError: it was begun at another commit, or a stage or profile does not exist.
    """
    commit = _git(ROOT, "rev-parse", "HEAD")
    source = out / "source"
    if source.exists() and not any(out.glob("runs/*.json")):
        shutil.rmtree(source)  # nothing has run from it
    if source.exists():
        begun = _git(source, "rev-parse", "HEAD")
        if begun != commit and _git(ROOT, "diff", "--name-only", begun, commit, "--", *COMPUTING):
            raise PipelineError(
                f"{out} was begun at commit {begun[:8]}, and the code or the parameters have changed since (now {commit[:8]}); "
                f"give another --out, or check out {begun[:8]}"
            )
        commit = begun
    else:
        clone(ROOT, commit, source)
    params = Path("params.yaml") if arguments.profile == EMBEDDED else Path("profiles") / f"{arguments.profile}.yaml"
    if not (source / params).exists():
        profiles = [EMBEDDED, *sorted(file.stem for file in (source / "profiles").glob("*.yaml"))]
        raise PipelineError(f"no profile {arguments.profile}; there are {', '.join(profiles)}")
    known = tuple(graph.load_stages(source))
    wanted = arguments.stages or known
    if strangers := [name for name in wanted if name not in known]:
        raise PipelineError(f"no stage {', '.join(strangers)}; there are {', '.join(known)}")
    if arguments.attack and set(wanted) != set(known):
        raise PipelineError("--attack attacks the policies of finished runs; leave out --stages")
    stages = tuple(name for name in known if name in wanted)
    return Benchmark(out, commit, arguments.profile, params, stages, arguments.attack)


def recipes_of(arguments: argparse.Namespace, benchmark: Benchmark) -> dict[tuple[str, int], Mapping[str, Any]]:
    """(variant, seed) -> what changes in the profile's parameters, by dotted names.

    Raises:
        ParamsError: a value that `--set` or a variant gives is none of the profile's parameters, or out of its bounds.
    """
    params = load_params(benchmark.source / benchmark.params)
    variants = arguments.variant or [(RECIPE, [])]
    if len(dict(variants)) < len(variants):
        raise ParamsError(f"two variants have the same name: {', '.join(name for name, _ in variants)}")
    return {
        (name, seed): custom(params, [f"run.seed={seed}", *arguments.settings, *settings]).changes
        for name, settings in variants
        for seed in arguments.seeds
    }


def refuse_strangers(benchmark: Benchmark, runs: Sequence[Run]) -> None:
    """Stop where a run of the same name on disk had other parameters: one folder is one benchmark.

    Raises:
        PipelineError: with each difference.
    """
    strangers = {run.name: differences for run in runs if (differences := Record(benchmark, run).strangers)}
    if strangers:
        lines = [f"  {name}: {'; '.join(differences)}" for name, differences in strangers.items()]
        raise PipelineError(
            "\n".join([f"{benchmark.out} holds other runs of these names; give another --out:", *lines])
        )


def describe(arithmetics: Mapping[str, Arithmetic], console: Console) -> None:
    first = next(iter(arithmetics.values()))
    for arithmetic in arithmetics.values():
        settings = " ".join(f"{name}={value}" for name, value in arithmetic.settings.items()) or "nothing set"
        differing = arithmetic.differs_in(first)
        digits = (
            f"other digits than {first.name} in {', '.join(differing)}" if differing else f"digits {arithmetic.digest}"
        )
        console.print(f"arithmetic {arithmetic.name}: {settings}; {digits}")


def close(figures: Mapping, out: Path, console: Console) -> None:
    """The report on the terminal."""
    wide = Console(width=max(console.width, WIDTH), file=console.file, highlight=False)
    for sheet in tables.sheets(figures):
        wide.print(tables.terminal(sheet))
    for name, totals in figures["variants"].items():
        console.print(f"{name}: {tables.gate_line(totals)}; {duration(totals['seconds'].get('all', 0))} a run")
    if len(figures["machines"]) > 1:
        console.print(f"runs of {len(figures['machines'])} machines; {out / 'seeds.json'} says which")
    for name, reasons in figures["failures"].items():
        console.print(Text(f"{name} failed in {', '.join(reasons)}; logs: {out / 'runs' / name / 'logs'}", "red"))
    console.print(f"figures: {out / 'seeds.json'}; for a page: {out / 'seeds.md'}")


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/seeds.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=seeds, required=True, metavar="11,12,…", help="values of run.seed")
    parser.add_argument(
        "--arithmetic",
        type=names,
        default=["native"],
        metavar="NAME,…",
        help=f"of {', '.join(SETTINGS)}; default: native",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="holds checkouts, cache and report")
    parser.add_argument(
        "--profile", default=EMBEDDED, metavar="NAME", help="default: embedded, the committed params.yaml"
    )
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="parameters of every variant, as in saferflow run --set",
    )  # fmt: skip
    parser.add_argument(
        "--variant", type=variant, action="append", default=[], metavar="NAME:KEY=VALUE,…",
        help="a variant of the recipe, once for each; the others are compared with the first. NAME: alone changes nothing",
    )  # fmt: skip
    parser.add_argument("--stages", type=names, metavar="NAME,…", help="only these stages of dvc.yaml; default: all")
    parser.add_argument(
        "--attack", type=positive, metavar="N", help=f"then saferflow attack {' '.join(ORDER)} --count N in each run"
    )
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time; seconds then mean little. Default: 1")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of each run, but for one-thread; default: torch's choice"
    )
    return parser.parse_args(argv)


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"git {command[0]} in {folder} failed: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
