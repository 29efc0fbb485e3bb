"""`saferflow stop`."""


from saferflow.commands.application import single

app = single()


@app.command()
def stop() -> None:
    """End the servers of this checkout. A pipeline that is at work loses its Prefect server: end that first."""
    from saferflow.tracking import services

    for service in services.SERVICES:
        print(f"{service.name:<8} {'stopped' if services.stop(service) else 'was not running'}")
