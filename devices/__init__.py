"""Simulated accelerators: a description (TOML) each, and one small file for each architecture."""
