"""`saferflow ledger`."""


from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def ledger() -> None:
    """Every move of `candidate`, `champion` and `previous`: when, from which version to which, by whom, why.

    The lines live in the registry, chained by hashes: a changed, lost or inserted one is an error that names it, and an alias
    that was moved by hand is named.
    """
    _, params = project()
    from rich.console import Console

    from saferflow.cli import promotion

    promotion.history(Console(highlight=False), params.gate.registered_model)
