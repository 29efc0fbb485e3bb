"""Policies and how they are trained."""
