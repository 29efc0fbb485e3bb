"""`saferflow ui`."""


from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def ui() -> None:
    """Start MLflow's and Prefect's pages on this machine (loopback only), and say where they are."""
    root, _ = project()
    from saferflow.tracking import services

    for service in services.SERVICES:
        print(f"{service.name:<8} {services.start(service, root)}")
    print("they stay up until: saferflow stop")
