"""Simulated accelerators: one file and one description each."""
