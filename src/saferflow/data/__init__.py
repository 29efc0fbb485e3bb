"""Rows, tables and the sources they come from."""
