"""The records of a run: MLflow runs, lineage, registry, and the local servers that show them."""
