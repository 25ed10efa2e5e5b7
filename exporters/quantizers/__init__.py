"""Weights to codes and scales."""
