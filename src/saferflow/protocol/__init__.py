"""The safety protocol: one compiled graph over virtual tools, which alone defines a legal trace."""
