"""What a rank needs, imported once: each rank is forked from the process that imported it."""

import tiny_transformer.cli.resume
import tiny_transformer.cli.train  # noqa: F401
