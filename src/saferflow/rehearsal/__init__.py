"""Rehearses a profile: runs its stages for a few steps in a temporary folder, before the whole run takes hours."""
