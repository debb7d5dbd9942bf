"""Lookup of rows in a table, with a gradient that is the same in every run, bit for bit."""

from minigam.engine import ops
from minigam.engine.cuda.kernels import launch
from minigam.engine.numeric import packed, rows

SLAB = 512  # ids per slab; each slab is counted separately

# A counting sort groups the positions of each id, in order. Rows are therefore always added to the table in
# the same order, which atomic additions of floats would not guarantee. The atomic additions here count
# integers, where the order does not matter.
PLACES = r"""
// counts (V, slabs): how often each id occurs in each slab of `slab` ids.
extern "C" __global__ void count_ids(const size* ids, size* counts, size n, size slab, size slabs) {
    const size i = my_index();
    if (i < n) atomicAdd((word*)&counts[ids[i] * slabs + i / slab], (word)1);
}

// ends: the running total of counts, that is, where the positions of an id and slab end in `places`.
extern "C" __global__ void place_ids(
    const size* ids, const size* ends, size* places, size n, size slab, size slabs)
{
    const size i = my_index();
    if (i >= n) return;
    const size cell = ids[i] * slabs + i / slab;
    size place = cell > 0 ? ends[cell - 1] : 0;
    for (size j = i / slab * slab; j < i; ++j) place += ids[j] == ids[i];
    places[place] = i;
}

// One thread per channel of a row of the table.
extern "C" __global__ void add_rows(
    const REAL* dy, const size* ends, const size* places, REAL* dtable, size V, size C, size slabs)
{
    const size v = my_index() / C, c = my_index() % C;
    if (v >= V) return;
    REAL sum = 0;
    for (size k = v > 0 ? ends[v * slabs - 1] : 0; k < ends[(v + 1) * slabs - 1]; ++k)
        sum += dy[places[k] * C + c];
    dtable[v * C + c] = sum;
}
"""


@ops.embedding.faster("cupy")
def embedding(xp, table, ids):
    """Adds the gradients of a row in the order of their positions, without atomic additions."""
    (V, C), dtype = table.shape, table.dtype

    def backward(dy):
        dy, flat = packed(xp, rows(dy), ids.reshape(-1))
        n, slabs = len(flat), max(1, -(-len(flat) // SLAB))
        counts, places = xp.zeros(V * slabs, dtype=flat.dtype), xp.empty(n, dtype=flat.dtype)
        launch(xp, PLACES, "count_ids", n, flat, counts, n, SLAB, slabs)
        ends = xp.cumsum(counts)
        launch(xp, PLACES, "place_ids", n, flat, ends, places, n, SLAB, slabs)
        dtable = xp.empty((V, C), dtype=dtype)
        launch(xp, PLACES, "add_rows", V * C, dy, ends, places, dtable, V, C, slabs)
        return dtable, None

    return table[ids], backward
