"""`saferflow queue`."""



from saferflow.commands.application import single
from saferflow.commands.project import project_folder

app = single()


@app.command()
def queue() -> None:
    """What is at work and what waits, by work pool and queue, in the order in which workers take it.

    Stages that pipelines ordered on nodes, queued experiments, the next run by the clock, and what waits for a sign-off. The
    server is PREFECT_API_URL's, or this checkout's own.

    Examples:

    `saferflow queue` · to take one out, or to stop it: `prefect flow-run cancel RUN`
    """
    root = project_folder()
    from flows.queue import print_queue

    print_queue(root)
