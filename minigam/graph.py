"""Draw how a tensor was made, as SVG, with nothing but Python.

Knows no class: a drawing needs `.node` (None, or something with `.op` and `.inputs`), `.shape`
and `.name` of the tensor it starts from and of everything below.
"""

from html import escape

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 132, 40, 18, 34  # pixels
_LIMIT = 400  # tensors; a bigger picture is no help


def draw(root) -> str | None:
    """Return an SVG of the graph that made `root`, leaves on top; None beyond 400 tensors.

    Only what a gradient flows through is drawn: an input that requires none is not kept.
    """
    depth = _depths(root)
    if len(depth) > _LIMIT:
        return None
    layers: list[list] = [[] for _ in range(max(depth.values()) + 1)]
    for tensor in depth:
        layers[depth[tensor]].append(tensor)
    place = _places(layers)
    width = max(x for x, _ in place.values()) + _WIDTH + _GAP_X
    height = len(layers) * (_HEIGHT + _GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>computation graph of {len(depth)} tensors</title>",
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
    ]
    for tensor in depth:
        for source in _inputs(tensor):
            parts.append(_edge(place[source], place[tensor]))
    parts += [_box(tensor, *place[tensor]) for tensor in depth]
    return "\n".join([*parts, "</svg>"])


def _inputs(tensor) -> list:
    return [x for x in tensor.node.inputs if x is not None] if tensor.node is not None else []


def _depths(root) -> dict:
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


def _places(layers: list[list]) -> dict:
    """Give every tensor its corner: each layer in the order of the mean place of its inputs.

    A leaf sinks to the layer just above its first use, so that its line stays short.
    """
    layer_of = {tensor: i for i, layer in enumerate(layers) for tensor in layer}
    for tensor in sorted(layer_of, key=layer_of.get):
        for source in _inputs(tensor):
            if source.node is None:
                uses = [t for t in layer_of if source in _inputs(t)]
                layer_of[source] = min(layer_of[t] for t in uses) - 1
    rows: list[list] = [[] for _ in layers]
    for tensor, i in layer_of.items():
        rows[i].append(tensor)
    place: dict = {}
    for i, row in enumerate(rows):

        def wish(tensor):
            xs = [place[x][0] for x in _inputs(tensor) if x in place]
            return sum(xs) / len(xs) if xs else float("inf")

        left = 0.0
        for tensor in sorted(row, key=wish):
            x = max(left, wish(tensor)) if wish(tensor) < float("inf") else left
            place[tensor] = (x + _GAP_X / 2, i * (_HEIGHT + _GAP_Y) + _GAP_Y / 2)
            left = x + _WIDTH + _GAP_X
    return place


def _edge(source: tuple[float, float], target: tuple[float, float]) -> str:
    x1, y1 = source[0] + _WIDTH / 2, source[1] + _HEIGHT
    x2, y2 = target[0] + _WIDTH / 2, target[1]
    middle = (y1 + y2) / 2
    return (
        f'<path d="M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}" '
        'fill="none" stroke="#555"/>'
        f'<path d="M{x2 - 4:.1f},{y2 - 6:.1f} L{x2:.1f},{y2:.1f} L{x2 + 4:.1f},{y2 - 6:.1f}" '
        'fill="none" stroke="#555"/>'
    )


def _box(tensor, x: float, y: float) -> str:
    leaf = tensor.node is None
    title = tensor.name or ("leaf" if leaf else tensor.node.op)
    fill, radius = ("#e8f0fe", _HEIGHT / 2) if leaf else ("#f5f5f5", 6)
    middle = x + _WIDTH / 2
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius:.0f}" '
        f'fill="{fill}" stroke="#333"/>'
        f'<text x="{middle:.1f}" y="{y + 17:.1f}" text-anchor="middle" fill="#111">{escape(title)}</text>'
        f'<text x="{middle:.1f}" y="{y + 32:.1f}" text-anchor="middle" fill="#555">'
        f"{escape(str(tuple(tensor.shape)))}</text>"
    )
