"""Draw the picture of docs/architecture.md: the floors, and the way of the data.

    python tools/architecture_figure.py        # writes docs/figures/architecture.svg

The layout is set by hand, in pixels. The picture follows the reader's light or dark scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "architecture.svg"
WIDTH, HEIGHT = 1060, 678

# Top floor first: what lives there, and the colour of everything that does.
ROOMS = {
    "cli": ("one file a command", "#f8d7c4"),
    "course": ("exercises and graders", "#f9d5c6"),
    "serving": ("a model behind HTTP", "#f9d8c0"),
    "bench": ("how fast, beside whom", "#fad9bd"),
    "interop": ("models leave the house", "#fbdeb4"),
    "training": ("batches to weights", "#fbe3b0"),
    "evaluation": ("weights to numbers", "#e6eeaa"),
    "hooks": ("watch and change runs", "#d9edaa"),
    "sampling": ("logits to text", "#cdebc0"),
    "model": ("ids to logits to loss", "#b5e6d0"),
    "data": ("text to batches", "#b4e2ec"),
    "text": ("characters and ids", "#bcd7f5"),
    "tracking": ("what a run leaves", "#cfcdf7"),
    "viz": ("plots and estimates", "#e5ccf2"),
    "config": ("settings and presets", "#f5ccdf"),
    "runtime": ("errors, files, devices", "#d9dde3"),
}

_STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de }
  .ink { fill: #1f2328 }
  .soft { fill: #59636e }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.6 }
  .head { fill: #59636e }
  .box { stroke: #1f2328; stroke-opacity: 0.35 }
  .in { fill: #1f2328 }
  text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 12px }
  .name { font-size: 14px; font-weight: 600 }
  .title { font-size: 16px; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    .ink { fill: #f0f6fc }
    .soft { fill: #9aa4af }
    .arrow { stroke: #9aa4af }
    .head { fill: #9aa4af }
  }"""

_FLOOR_X, _FLOOR_WIDTH, _FLOOR_STEP, _FLOOR_HEIGHT = 56, 248, 37, 31
_TOP = 70
_COLUMNS = (360, 532, 704, 876)
_ROWS = (_TOP, 202, 334, 466)
_BOX_WIDTH, _BOX_HEIGHT = 144, 62


@dataclass(frozen=True)
class Box:
    """A stage of the data's way: where it stands, its room, its name, and what it makes."""

    row: int
    column: int
    room: str
    name: str
    what: tuple[str, str]
    span: int = 1

    @property
    def left(self) -> int:
        """The left edge."""
        return _COLUMNS[self.column]

    @property
    def top(self) -> int:
        """The upper edge."""
        return _ROWS[self.row]

    @property
    def width(self) -> int:
        """Its own column, or as many as it spans."""
        return _COLUMNS[self.column + self.span - 1] + _BOX_WIDTH - self.left


BOXES = (
    Box(0, 0, "data", "corpora", ("a name or a path", "text, streamed")),
    Box(0, 1, "text", "normalize", ("97 characters", "and a placeholder")),
    Box(0, 2, "text", "tokenizer", ("ids 0 to 98", "(N,) uint8")),
    Box(0, 3, "data", "token file", ("written once,", "memory-mapped")),
    Box(1, 3, "data", "split", ("training and", "validation part")),
    Box(1, 2, "data", "windows", ("x, and y one later", "(T,) each")),
    Box(1, 1, "data", "batches", ("from (seed, step)", "(B, T) int64")),
    Box(1, 0, "model", "model", ("logits (B, T, V)", "float32")),
    Box(2, 0, "model", "loss", ("cross-entropy", "nats a token")),
    Box(2, 1, "training", "optimizer", ("clipped gradients,", "AdamW or Muon")),
    Box(2, 2, "training", "checkpoint", ("all state, JSON", "and safetensors")),
    Box(2, 3, "sampling", "sampler", ("strategy, cache", "(B, V) to (B,) ids")),
    Box(
        3, 0, "tracking", "run log", ("one JSON object a line:", "updates, evaluations, samples"), 2
    ),
    Box(3, 2, "evaluation", "evaluator", ("validation part,", "every target once")),
    Box(3, 3, "text", "text", ("decoded ids", "a continuation")),
)


def _text(x: float, y: float, words: str, style: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def _rectangle(x: float, y: float, width: float, height: float, room: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" '
        f'class="box" fill="{ROOMS[room][1]}"/>'
    )


def _arrow(*points: tuple[float, float]) -> str:
    """Return a line through the points that ends in a head; it is level or upright."""
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    ahead = [*points[:-1], (x - 7 * dx, y - 7 * dy)]
    line = " ".join(f"{a:g},{b:g}" for a, b in ahead)
    back = (x - 9 * dx, y - 9 * dy)
    wings = [(back[0] + 4.5 * dy, back[1] + 4.5 * dx), (back[0] - 4.5 * dy, back[1] - 4.5 * dx)]
    head = " ".join(f"{a:g},{b:g}" for a, b in [(x, y), *wings])
    return f'<polyline points="{line}" class="arrow"/><polygon points="{head}" class="head"/>'


def _floors() -> list[str]:
    parts = [_text(_FLOOR_X, 44, "Floors: imports go down", "ink title", "start")]
    parts.append(_arrow((34, _TOP), (34, _TOP + _FLOOR_STEP * len(ROOMS) - 8)))
    for index, (name, (what, _)) in enumerate(ROOMS.items()):
        y = _TOP + index * _FLOOR_STEP
        parts.append(_rectangle(_FLOOR_X, y, _FLOOR_WIDTH, _FLOOR_HEIGHT, name))
        parts.append(_text(_FLOOR_X + 12, y + 20.5, name, "in name", "start"))
        parts.append(_text(_FLOOR_X + 108, y + 20, what, "in", "start"))
    return parts


def _boxes() -> list[str]:
    parts = [_text(_COLUMNS[0], 44, "The way of the data", "ink title", "start")]
    for box in BOXES:
        middle = box.left + box.width / 2
        parts.append(_rectangle(box.left, box.top, box.width, _BOX_HEIGHT, box.room))
        parts.append(_text(middle, box.top + 19, box.name, "in name"))
        parts.append(_text(middle, box.top + 36, box.what[0], "in"))
        parts.append(_text(middle, box.top + 52, box.what[1], "in"))
    return parts


def _arrows() -> list[str]:
    half, low = _BOX_WIDTH / 2, _BOX_HEIGHT
    mid = [row + _BOX_HEIGHT / 2 for row in _ROWS]
    one, two, three, four = _COLUMNS
    right = [_arrow((a + _BOX_WIDTH, mid[0]), (b, mid[0])) for a, b in ((one, two), (two, three))]
    right.append(_arrow((three + _BOX_WIDTH, mid[0]), (four, mid[0])))
    left = [
        _arrow((a, mid[1]), (b + _BOX_WIDTH, mid[1]))
        for a, b in ((four, three), (three, two), (two, one))
    ]
    along = [
        _arrow((a + _BOX_WIDTH, mid[2]), (b, mid[2]))
        for a, b in ((one, two), (two, three), (three, four))
    ]
    down = [
        _arrow((column + half, _ROWS[row] + low), (column + half, _ROWS[row + 1]))
        for row, column in ((0, four), (2, one), (2, three), (2, four))
    ]
    loss = one + half - 36
    down.append(_arrow((loss, _ROWS[1] + low), (loss, _ROWS[2])))
    # New weights go back to the model, for the next step.
    bend, entry = _ROWS[2] - 35, one + half + 36
    back = _arrow(
        (two + half, _ROWS[2]), (two + half, bend), (entry, bend), (entry, _ROWS[1] + low)
    )
    label = _text(two + half + 10, bend + 4, "new weights: the next step", "soft", "start")
    numbers = _arrow((three, mid[3]), (two + _BOX_WIDTH, mid[3]))
    return [*right, *left, *along, *down, back, label, numbers]


def draw() -> str:
    """Return the picture as SVG text; the same bytes every time."""
    note = "A box has the colour of the room that it lives in."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">The floors of the package, and the way of the data</title>',
        f"<style>{_STYLE}\n</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" class="ground"/>',
        *_floors(),
        *_arrows(),
        *_boxes(),
        _text(_COLUMNS[0], HEIGHT - 27, note, "soft", "start"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(draw(), encoding="utf-8")
