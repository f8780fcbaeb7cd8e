"""`tiny course compare`: where a part first differs from the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from tiny_transformer.cli.course_check import NOT_PASSED
from tiny_transformer.cli.course_options import Place, console
from tiny_transformer.config.loading import load_config

if TYPE_CHECKING:
    from tiny_transformer.course.comparison import Comparison


@dataclass(frozen=True)
class Compare(Place):
    """Run your parts and the reference's on one batch; name the first tensor that differs."""

    part: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PART")] = field(
        default_factory=tuple
    )
    """norm, attention, mlp and so on (default: every part that is written)."""
    path: Annotated[str | None, tyro.conf.arg(name="folder")] = None
    """Another folder or Python file to take parts from than the workspace."""
    config: str | None = None
    """The kind of model: a preset or a file; none takes the course's."""
    heads: int | None = None
    """Attention heads: 1 compares SingleHeadAttention."""

    def run(self) -> int:
        """Compare and tell; return 0 or 1."""
        import dataclasses

        from tiny_transformer.course.divergence import compare_each
        from tiny_transformer.course.graft import require_some, workspace_parts
        from tiny_transformer.training.written_parts import describe_parts, name_parts

        source = self.folder if self.path is None else self.path
        config = load_config(self.config or "course").model
        if self.heads is not None:
            config = dataclasses.replace(config, n_heads=self.heads)
        parts = workspace_parts(source, config, self.part or None)
        require_some(parts, source)
        out = console()
        out.print(f"Comparing {name_parts(describe_parts(parts))} with the reference.")
        for note in parts.notes:
            out.print(f"Not taken: {note}", soft_wrap=True)
        same = True
        for comparison in compare_each(parts, config):
            show_comparison(comparison)
            same = same and comparison.same
        return 0 if same else NOT_PASSED


def show_comparison(comparison: Comparison) -> None:
    """Print what comparing came to."""
    from rich.text import Text

    out = console()
    mark, style = ("✓", "green") if comparison.same else ("✗", "bold red")
    out.print(Text(f"{mark} {comparison.sentence()}", style=style), soft_wrap=True)
    if comparison.divergence is not None:
        for line in comparison.divergence.details:
            out.print(f"  {line}", soft_wrap=True)
