"""Turn checkpoints into bundles."""
