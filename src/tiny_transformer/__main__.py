"""`python -m tiny_transformer` is `tiny`."""

from tiny_transformer.cli.main import entry_point

entry_point()
