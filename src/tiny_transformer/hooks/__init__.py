"""Watch a run, or change its updates: built from config, in the order of the list."""
