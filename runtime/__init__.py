"""Turn bundles into tokens."""
