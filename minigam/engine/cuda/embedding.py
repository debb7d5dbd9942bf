"""Lookup of rows in a table, with a gradient that is the same in every run, bit for bit."""

from minigam.engine import ops
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import launch
from minigam.engine.numeric import packed, rows

COUNTED = 512  # ids per slab; each slab is counted separately
RUN = 32  # positions that one thread adds up, so that a frequent id is not the work of one thread

# A counting sort groups the positions of each id, in order. Rows are therefore always added in one order,
# which atomic additions of floats would not guarantee. The atomic additions here count integers, where the
# order does not matter.
PLACES = r"""
// counts (V, slabs): how often each id occurs in each slab of `slab` ids.
extern "C" __global__ void count_ids(const size* ids, size* counts, size n, size slab, size slabs) {
    const size i = my_index();
    if (i < n) atomicAdd((word*)&counts[ids[i] * slabs + i / slab], (word)1);
}

// ends: the running total of counts, that is, where the positions of an id and slab end in `places`. Those of
// an id begin here.
__device__ size begin_of(size id, const size* ends, size slabs) { return id > 0 ? ends[id * slabs - 1] : 0; }

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

// `places` holds the positions sorted by id. One thread per channel of `run` of them adds up those of each
// id: into the table if no others have this id, else into edges (runs, 2, C), edge 0 if the id began before,
// edge 1 if it only continues after.
extern "C" __global__ void add_runs(
    const REAL* __restrict__ dy, const size* __restrict__ ids, const size* __restrict__ ends,
    const size* __restrict__ places, REAL* dtable, REAL* __restrict__ edges,
    size n, size C, size slabs, size run)
{
    const size c = my_channel(), begin = my_part() * run, end = begin + run < n ? begin + run : n;
    if (c >= C) return;
    for (size k = begin; k < end;) {
        const size id = ids[places[k]];
        const size from = begin_of(id, ends, slabs), to = begin_of(id + 1, ends, slabs);
        REAL sum = 0;
        for (; k < to && k < end; ++k) sum += dy[places[k] * C + c];
        if (from >= begin && to <= end) dtable[id * C + c] += sum;
        else edges[(my_part() * 2 + (from >= begin)) * C + c] = sum;
    }
}

// Adds the edges of an id, in order, in the thread of the first.
extern "C" __global__ void add_edges(
    const size* __restrict__ ids, const size* __restrict__ ends, const size* __restrict__ places,
    REAL* dtable, const REAL* __restrict__ edges, size n, size C, size slabs, size run)
{
    const size c = my_channel(), begin = my_part() * run, end = begin + run;
    if (c >= C || end >= n) return;
    const size id = ids[places[end - 1]];
    const size from = begin_of(id, ends, slabs), to = begin_of(id + 1, ends, slabs);
    if (from < begin || to <= end) return;
    REAL sum = edges[(my_part() * 2 + 1) * C + c];
    for (size part = my_part() + 1; part * run < to; ++part) sum += edges[part * 2 * C + c];
    dtable[id * C + c] += sum;
}
"""


@ops.embedding.faster("cupy")
def embedding(xp, table, ids):
    """Adds the gradients of a row in a fixed order, without atomic additions."""
    (V, C), dtype = table.shape, table.dtype

    def backward(dy):
        dy, flat = packed(xp, rows(dy), ids.reshape(-1))
        n, slabs, runs = len(flat), max(1, -(-len(flat) // COUNTED)), -(-len(flat) // RUN)
        counts, places = xp.zeros(V * slabs, dtype=flat.dtype), xp.empty(n, dtype=flat.dtype)
        launch(xp, PLACES, "count_ids", n, flat, counts, n, COUNTED, slabs)
        ends = xp.cumsum(counts)
        launch(xp, PLACES, "place_ids", n, flat, ends, places, n, COUNTED, slabs)
        (dtable, more), edges = place_for(xp, table), xp.empty((runs, 2, C), dtype=dtype)
        if not more:
            dtable[...] = 0.0
        sizes = (n, C, slabs, RUN)
        launch(xp, PLACES, "add_runs", (runs, C), dy, flat, ends, places, dtable, edges, *sizes)
        launch(xp, PLACES, "add_edges", (runs, C), flat, ends, places, dtable, edges, *sizes)
        return dtable, None

    return table[ids], backward
