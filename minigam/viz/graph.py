"""Draw the graph that computed a tensor, as SVG, in pure Python.

It depends on attributes, not on classes: an object with `.inputs` was computed and has an `.op`; any
other object is a leaf and has a `.name`; both have a `.shape`. The layout is separate from the drawing:
`viz.graph_plot` draws the same layout with matplotlib.
"""

from html import escape
from typing import Any, NamedTuple

from minigam.viz.style import BLUE, INK

WIDTH, HEIGHT = 164, 40  # pixels: a box
_LINE, _GAP_X, _GAP_Y = 8, 18, 34  # pixels: a line between boxes, gaps
LIMIT = 400  # tensors; a larger picture cannot be read

Point = tuple[float, float]


class Box(NamedTuple):
    """The box of a tensor: the middle of its upper edge, its text, and whether it is a leaf."""

    x: float
    y: float
    title: str
    shape: str
    leaf: bool


class Layout(NamedTuple):
    """Where everything is, in pixels; y grows downwards.

    lines : the corners of a line from each input to its use; straight parts and bends alternate
    """

    width: float
    height: float
    boxes: list[Box]
    lines: list[list[Point]]


def layout(root: Any) -> Layout | None:
    """Place the graph that computed `root`, leaves on top; None for more than 400 tensors.

    It shows only what a gradient flows through, because the tape keeps no other inputs.
    """
    depth = _depths(root)
    if len(depth) > LIMIT:
        return None
    row_of, rows = _rows(depth)
    centre = _centres(row_of, rows)
    lines = []
    for tensor in depth:
        # The lines into a box end side by side, so that a + a has two.
        sources = sorted(_inputs(tensor), key=lambda s: centre[_at(s, row_of[tensor] - 1, row_of)])
        for i, source in enumerate(sources):
            end = centre[tensor] + WIDTH * ((i + 1) / (len(sources) + 1) - 0.5)
            xs = [centre[_at(source, r, row_of)] for r in range(row_of[source], row_of[tensor])]
            lines.append(_line([*xs, end], row_of[source]))
    return Layout(
        width=_GAP_X
        + max(*(centre[tensor] + WIDTH / 2 for tensor in depth), *(x for line in lines for x, _ in line), 0),
        height=len(rows) * (HEIGHT + _GAP_Y),
        boxes=[_box(tensor, centre[tensor], _top(row_of[tensor])) for tensor in depth],
        lines=lines,
    )


def draw(root: Any) -> str | None:
    """Return an SVG of the graph that computed `root`, or None for more than 400 tensors."""
    placed = layout(root)
    if placed is None:
        return None
    width, height, boxes, lines = placed
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>computation graph of {len(boxes)} tensors</title>",
        *map(_svg_line, lines),
        *map(_svg_box, boxes),
        "</svg>",
    ])  # fmt: skip


def bend(start: Point, end: Point) -> tuple[Point, Point]:
    """Return the control points of a cubic curve that is vertical at `start` and at `end`."""
    middle = (start[1] + end[1]) / 2
    return (start[0], middle), (end[0], middle)


def head(end: Point) -> tuple[Point, Point, Point]:
    """Return the corners of an arrow head that points down at `end`."""
    x, y = end
    return (x - 4, y - 6), end, (x + 4, y - 6)


def _inputs(tensor: Any) -> list:
    return [x for x in getattr(tensor, "inputs", ()) if x is not None]


def _depths(root: Any) -> dict:
    """Map every tensor to its longest distance from a leaf."""
    depth: dict = {}
    stack = [root]
    while stack:
        tensor = stack[-1]
        waiting = [x for x in _inputs(tensor) if x not in depth]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        depth[tensor] = max((depth[x] + 1 for x in _inputs(tensor)), default=0)
    return depth


def _rows(depth: dict) -> tuple[dict, list[list]]:
    """Give every tensor a row below all its inputs; return the row of each, and the rows.

    A leaf goes to the row above its first use, so that its line is short. A line that crosses rows gets
    an entry (source, row) in each of them, so that no box hides it.
    """
    row_of = dict(depth)
    users: dict[Any, list] = {tensor: [] for tensor in depth}
    for tensor in depth:
        for source in _inputs(tensor):
            users[source].append(tensor)
    for tensor in depth:
        if not _inputs(tensor) and users[tensor]:
            row_of[tensor] = min(row_of[t] for t in users[tensor]) - 1
    rows: list[list] = [[] for _ in range(max(row_of.values()) + 1)]
    for tensor, row in row_of.items():
        rows[row].append(tensor)
        last = max((row_of[t] for t in users[tensor]), default=row)
        for crossed in range(row + 1, last):
            rows[crossed].append((tensor, crossed))
    return row_of, rows


def _at(source: Any, row: int, row_of: dict) -> Any:
    """Return the entry of `source` in a row: itself, or its line if that crosses the row."""
    return source if row_of[source] == row else (source, row)


def _centres(row_of: dict, rows: list[list]) -> dict:
    """Place every row from left to right: an item goes below the mean of its inputs, or right of that."""
    centre: dict = {}
    for i, row in enumerate(rows):
        wish = {}
        for item in row:
            sources = item[:1] if isinstance(item, tuple) else _inputs(item)
            above = [centre[_at(source, i - 1, row_of)] for source in sources]
            wish[item] = sum(above) / len(above) if above else float("inf")  # leaves: rightmost
        left = _GAP_X
        for item in sorted(row, key=wish.__getitem__):
            half = (_LINE if isinstance(item, tuple) else WIDTH) / 2
            centre[item] = left + half if wish[item] == float("inf") else max(left + half, wish[item])
            left = centre[item] + half + _GAP_X
    return centre


def _top(row: int) -> float:
    return row * (HEIGHT + _GAP_Y) + _GAP_Y / 2


def _line(xs: list[float], row: int) -> list[Point]:
    """Return the corners of a line from the bottom of `row` to the top of the last; one x per row."""
    corners = [(xs[0], _top(row) + HEIGHT)]
    for r, below in enumerate(xs[1:], row + 1):
        corners += [(corners[-1][0], _top(r) - _GAP_Y), (below, _top(r))]
    return corners


def _box(tensor: Any, x: float, y: float) -> Box:
    leaf = not hasattr(tensor, "op")
    title = (tensor.name or "leaf") if leaf else tensor.op
    title = title if len(title) <= 22 else f"…{title[-21:]}"  # as much as the box holds
    return Box(x, y, title, str(tuple(tensor.shape)).replace("'", ""), leaf)  # a dimension may be a letter


def _svg_line(corners: list[Point]) -> str:
    path = f"M{_pair(corners[0])}"
    for start, end in zip(corners[1::2], corners[2::2], strict=True):
        path += f" V{start[1]:.1f} C{' '.join(map(_pair, (*bend(start, end), end)))}"
    point = " L".join(map(_pair, head(corners[-1])))
    return (
        f'<path d="{path}" fill="none" stroke="{INK}"/>'
        f'<path d="M{point}" fill="none" stroke="{INK}"/>'
    )  # fmt: skip


def _pair(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _svg_box(box: Box) -> str:
    x, y, title, shape, leaf = box
    edge, radius = (BLUE, HEIGHT / 2) if leaf else (INK, 6)
    return (
        f'<rect x="{x - WIDTH / 2:.1f}" y="{y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="{radius:.0f}" '
        f'fill="none" stroke="{edge}"/>'
        f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle" font-weight="bold" fill="{INK}">'
        f"{escape(title)}</text>"
        f'<text x="{x:.1f}" y="{y + 32:.1f}" text-anchor="middle" fill="{INK}">{escape(shape)}</text>'
    )
