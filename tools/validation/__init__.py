"""What `tools/validate.py` runs: the declared checks of the command line, and the sections."""
