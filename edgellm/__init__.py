"""edgellm."""
