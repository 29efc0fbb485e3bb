"""Judges: they read a response and the labels, and never learn which policy wrote it."""
