"""One file an architecture; the file is named as the model_type of config.json."""
