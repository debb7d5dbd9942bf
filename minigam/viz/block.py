"""The picture of a GAM block: its equations E1 to E9 as boxes, with the shapes that flow between them."""

from typing import TYPE_CHECKING

from minigam.viz.tape import graph_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Box:
    """A box as `graph_plot` reads it: its text, its shape, and the boxes that it is computed from."""

    def __init__(self, text: str, shape: str, *inputs: "_Box"):
        self.name, self.shape, self.inputs = text, tuple(shape.split()), inputs
        if inputs:
            self.op = text


def block_plot() -> "Figure":
    """Draw a block from its input x to its output y. Round boxes are given: the input and the parameters."""
    x, memory = _Box("x", "B T C"), _Box("memory M", "S C")
    e1 = _Box("E1 u = LayerNorm(x)", "B T C", x)
    e2 = _Box("E2 local_context", "B T C", e1, _Box("convolution w, b", "C K"))
    e3 = _Box("E3 s = u Mᵀ", "B T S", e1, memory)
    e4 = _Box("E4 a = softmax(s)", "B T S", e3)
    e5 = _Box("E5 global_context", "B T C", e4, memory)
    e6 = _Box("E6 g_local, g_global", "B T 2C", e1, _Box("gate W_g, b_g", "2C C"))
    e7 = _Box("E7 fused", "B T C", e2, e5, e6)
    e8 = _Box("E8 h = x + fused", "B T C", x, e7)
    norm = _Box("E9 LayerNorm(h)", "B T C", e8)
    inner = _Box("E9 GELU(W_1 … + b_1)", "B T 4C", norm, _Box("W_1, b_1", "4C C"))
    outer = _Box("E9 W_2 … + b_2", "B T C", inner, _Box("W_2, b_2", "C 4C"))
    return graph_plot(_Box("E9 y = h + …", "B T C", e8, outer))
