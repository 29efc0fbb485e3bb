"""One module a DVC stage, run as `python -m saferflow.stages.<stage>`: it reads, computes and writes declared files."""
