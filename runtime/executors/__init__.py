"""Ways to run a plan; the file is named as the executor."""
