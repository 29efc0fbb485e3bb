"""`saferflow status`."""


from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def status() -> None:
    """What is up to date, what would run and why, the last scores, the champion."""
    root, params = project()
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console

    from saferflow.cli import show
    from saferflow.tracking import graph, runs

    console = Console(highlight=False)
    with ThreadPoolExecutor(1) as beside:  # DVC looks while MLflow opens its store
        looking = beside.submit(graph.stale, root)
        runs.client()
        stages, changes = graph.load_stages(root), looking.result()
    reached = graph.with_followers(changes, stages)
    for name in stages:
        if name in changes:
            console.print(f"{name:<10} would run: {show.listed(changes[name])}")
        else:
            console.print(
                f"{name:<10} " + ("would run if its inputs come out changed" if name in reached else "up to date")
            )
    show.results(console, root, params, brief=True)
