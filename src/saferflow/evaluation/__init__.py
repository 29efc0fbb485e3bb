"""From graded responses to scores, intervals, a verdict and a report."""
