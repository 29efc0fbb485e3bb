"""The safety protocol: one compiled graph over virtual tools, read by everything that asks what a legal trace is."""
