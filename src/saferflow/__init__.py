"""Safety alignment of vision-language models as a pipeline: plan, train, evaluate, gate, promote."""
