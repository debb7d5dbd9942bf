"""Compile and launch C kernels: what the faster rules for the CPU share.

A kernel is a C function in a string next to the rule that uses it:

    KERNEL name(size first, size last, const REAL* x, REAL* y, size C, REAL eps)

It computes rows first .. last-1; all its arguments but these two come from `launch`. Several threads take
blocks of rows. A kernel that sums over rows writes one partial sum per block, and its rule adds them in the
order of the blocks, so the number of threads changes no bit. All sources together are compiled on first use,
once per dtype.
"""

import ctypes
import re
import struct
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial, wraps

import numpy as np

from minigam import launcher, threads
from minigam.engine import compiler
from minigam.engine.compiled.functions import FUNCTIONS
from minigam.engine.dispatch import Op
from minigam.engine.tensor import state

REAL = {"float32": "float", "float64": "double"}
BLOCK = 2**14  # numbers that a thread takes at a time: enough to amortise waking it

COMMON = r"""
#include <math.h>
#include <string.h>
typedef long long size;
typedef unsigned long long word;
typedef union { void* pointer; size integer; word bits; double real; } Slot;  // one argument of a kernel
typedef void (*Kernel)(const Slot*, size first, size last);
#define KERNEL static void
#define SUM(x) _Pragma(TEXT(omp simd reduction(+ : x)))  // the loop may add in another order, in vectors
#define MOST(x) _Pragma(TEXT(omp simd reduction(max : x)))
#define EACH _Pragma("omp simd")  // no iteration reads what another writes
#define TEXT(x) #x

// The 16 random bits of n entries of a dropout mask from `entry` on, according to masks.keep_mask. Four
// entries share number entry / 4 + 1 of SplitMix64.
enum { DRAWN = 256 };  // entries at a time
static const unsigned short* draw(word* z, word entry, size n, word seed) {
    EACH for (size i = 0; i < (n + 6) / 4; ++i) {
        word y = seed + (entry / 4 + 1 + (word)i) * 0x9E3779B97F4A7C15ull;
        y = (y ^ (y >> 30)) * 0xBF58476D1CE4E5B9ull;
        y = (y ^ (y >> 27)) * 0x94D049BB133111EBull;
        z[i] = y ^ (y >> 31);
    }
    return (const unsigned short*)z + entry % 4;
}
"""

THREADS = r"""
typedef struct { Kernel kernel; const Slot* arguments; size rows, step, next; } Job;

// Compute blocks of the job until none is left.
static void take_blocks(Job* job) {
    for (size first; (first = __atomic_fetch_add(&job->next, job->step, __ATOMIC_RELAXED)) < job->rows;)
        job->kernel(job->arguments, first, first + job->step < job->rows ? first + job->step : job->rows);
}

#ifdef _WIN32
void set_threads(int n) {}
static void in_blocks(Kernel kernel, const Slot* arguments, size rows, size step) {
    Job job = {kernel, arguments, rows, step, 0};
    take_blocks(&job);
}
#else
#include <pthread.h>
#include <signal.h>
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;  // held by the thread whose job the workers do
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   // guards what follows
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static Job* current;
static int threads = 1, workers, busy;

static void* work(void* nothing) {
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!current || __atomic_load_n(&current->next, __ATOMIC_RELAXED) >= current->rows)
            pthread_cond_wait(&wake, &lock);
        Job* job = current;
        ++busy;
        pthread_mutex_unlock(&lock);
        take_blocks(job);
        pthread_mutex_lock(&lock);
        if (--busy == 0) pthread_cond_signal(&finished);
    }
    return nothing;
}

static void after_fork(void) {  // the workers exist in the parent only
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    pthread_cond_init(&finished, NULL);
    current = NULL;
    workers = busy = 0;
}

void set_threads(int n) { threads = n; }

static void start_workers(void) {
    static int registered;
    if (!registered) registered = 1, pthread_atfork(NULL, NULL, after_fork);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals belong to Python's threads
    for (pthread_t thread; workers < threads - 1; ++workers) {
        if (pthread_create(&thread, NULL, work, NULL)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void in_blocks(Kernel kernel, const Slot* arguments, size rows, size step) {
    Job job = {kernel, arguments, rows, step, 0};
    if (threads == 1 || rows <= step || pthread_mutex_trylock(&owner)) {
        take_blocks(&job);  // alone, also while the workers do the job of another thread
        return;
    }
    pthread_mutex_lock(&lock);
    if (workers < threads - 1) start_workers();
    current = &job;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    take_blocks(&job);
    pthread_mutex_lock(&lock);
    current = NULL;
    while (busy) pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}
#endif
"""

SOURCES: list[str] = []  # of all kernels
# By name of a rule: for a dtype, pairs of what it computes of a small example and what its reference does.
CHECKS: dict[str, Callable[[np.dtype], Iterable[tuple]]] = {}
SLOT = {"pointer": "P", "integer": "q", "bits": "Q", "real": "d"}  # member of Slot: format of `struct`


def member_of(argument: str) -> str:
    """Return the member of Slot that holds a C argument such as "const REAL* x"."""
    numbers = {"size": "integer", "word": "bits", "REAL": "real"}
    return "pointer" if "*" in argument else numbers[argument.split(maxsplit=1)[0]]


def signatures(source: str) -> dict[str, list[str]]:
    """Return the arguments of each kernel of a source but first and last, by its name."""
    found = re.findall(r"^KERNEL (\w+)\(([^)]*)\)", source, re.M)
    return {name: [a.strip() for a in " ".join(text.split()).split(",")[2:]] for name, text in found}


def whole_source() -> str:
    """Return the text of all kernels, and for each one the function that Python calls."""
    text = COMMON + FUNCTIONS + "".join(SOURCES) + THREADS
    for name, arguments in signatures(text).items():
        slots = "".join(f", s[{i}].{member_of(a)}" for i, a in enumerate(arguments))
        text += (
            f"static void call_{name}(const Slot* s, size i, size j) {{ {name}(i, j{slots}); }}\n"
            f"void run_{name}(const Slot* s, size n, size step) {{ in_blocks(call_{name}, s, n, step); }}\n"
        )
    return text


def launch(name: str, rows: int, step: int, *arguments) -> None:
    """Run kernel `name` on rows 0 .. rows-1, in blocks of `step` rows.

    arguments : C-contiguous arrays, of the one float dtype that the dtype of the first array names, or int64;
                None for no array; numbers
    Raises TypeError for an array of any other layout or dtype.
    """
    dtype = arguments[0].dtype
    function, pack = _functions(dtype)[name]
    values = []
    for a in arguments:
        if isinstance(a, np.ndarray):
            if not a.flags.c_contiguous or a.dtype not in (dtype, np.int64):
                raise TypeError(f"{name}: an array {a.shape} {a.dtype}, wanted C-contiguous {dtype} or int64")
            a = a.ctypes.data
        values.append(0 if a is None else a)
    function(pack(*values), rows, step)


def blocks_of(width: int) -> int:
    """Return how many rows of `width` numbers make a block."""
    return max(1, BLOCK // max(1, width))


# ------------------------------------------------------------------------------------- choosing and loading


def rule_for(op: Op, *shapes: tuple[int, ...] | list, **settings) -> Callable[[Callable], Callable]:
    """Register a rule of C kernels for NumPy's arrays. Where they cannot be used, the reference runs.

    shapes, settings : of a small example, on which the rule is compared with its reference at load
    """

    def register(rule: Callable) -> Callable:
        @wraps(rule)
        def chosen(xp, *arrays, **settings):
            return (rule if usable(getattr(arrays[0], "dtype", None)) else op.rule)(xp, *arrays, **settings)

        op.faster("numpy")(chosen)
        CHECKS[op.name] = partial(_pairs, op, rule, shapes, settings)
        return rule

    return register


_wanted = True


def choose(name: str) -> None:
    """Use these rules from now on ("compiled"), or the reference rules alone ("reference")."""
    global _wanted  # noqa: PLW0603  of the whole process
    _wanted = name == "compiled"


def in_use() -> str:
    """Return "compiled" or "reference": the rules for NumPy's float32 arrays. Compiles them if need be."""
    return "compiled" if usable(np.dtype("float32")) else "reference"


def compiler_name() -> str | None:
    """Return the name and version of the compiler of the kernels in use; None for the reference rules."""
    return _library(np.dtype("float32"))[1] if in_use() == "compiled" else None


def usable(dtype: np.dtype | None) -> bool:
    """Return whether kernels of this dtype are wanted and can be used. If they cannot, say why, once."""
    return _wanted and not state().reference_only and dtype is not None and _loaded(dtype)


@cache
def _loaded(dtype: np.dtype) -> bool:
    if dtype.name not in REAL:
        return False
    try:
        for name, pairs in CHECKS.items():
            _check(name, pairs(dtype), dtype)
    except compiler.NoCompiler as e:
        if launcher.rank() == 0:
            print(f"no compiled kernels, the slower reference rules compute ({e})", file=sys.stderr)
        return False
    return True


@cache
def _library(dtype: np.dtype) -> tuple[ctypes.CDLL, str]:
    return compiler.library(whole_source(), f"-DREAL={REAL[dtype.name]}", f"-DFLOAT{8 * dtype.itemsize}")


@cache
def _functions(dtype: np.dtype) -> dict[str, tuple[Callable, Callable]]:
    """Return for each kernel the function that runs it and the function that packs its arguments."""
    library, _ = _library(dtype)
    set_threads(threads.count(), dtype.name)
    functions = {}
    for name, arguments in signatures(whole_source()).items():
        run = getattr(library, f"run_{name}")
        run.argtypes, run.restype = [ctypes.c_char_p, ctypes.c_longlong, ctypes.c_longlong], None
        functions[name] = run, struct.Struct("".join(SLOT[member_of(a)] for a in arguments)).pack
    return functions


def set_threads(n: int, dtype: str = "float32") -> None:
    """Compute with n threads from now on in this dtype; at first there are `threads.count()`."""
    _library(np.dtype(dtype))[0].set_threads(n)


def _pairs(op: Op, rule: Callable, shapes: tuple, settings: dict, dtype: np.dtype) -> Iterable[tuple]:
    """Return the values and gradients of a rule and of its reference, in pairs."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal(s) if isinstance(s, tuple) else np.array(s) for s in shapes]
    inputs = [a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn]
    results = []
    for each in (rule, op.rule):
        y, backward = each(np, *inputs, **settings)
        dy = np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape)
        results.append([y, *(g for g in backward(dy) if g is not None)])
    return zip(*results, strict=True)


def _check(name: str, pairs: Iterable[tuple], dtype: np.dtype) -> None:
    """Raise NoCompiler unless the two of each pair agree."""
    for got, wanted in pairs:
        allowed = 1e3 * np.finfo(dtype).eps * max(1.0, np.abs(wanted).max())
        if not np.allclose(got, wanted, rtol=0.0, atol=allowed):
            raise compiler.NoCompiler(f"the kernels of {name} are wrong on this machine")
