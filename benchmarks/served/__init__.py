"""What the benchmarks of `saferflow serve` share: a project with a registry, its servers, callers, and what they may ask."""
