"""Rewards: pure functions of a plan, a completion and a judge's marks."""
