"""Prefect flows: when the pipeline runs and what happens around it."""
