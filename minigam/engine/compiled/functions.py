"""exp, log, tanh, sigmoid and Phi as C text: for float32 by hand, so that loops over them become vector code.

libm's expf and the like are calls, which no compiler vectorises. For float64 they are libm's. The text uses
nothing but arithmetic, comparisons and the bits of a number, so a CUDA source can include it as well.
Errors over all floats are tested against mpmath (tests/engine/test_c_functions.py). The coefficients are
fitted by `python -m helpers.fit_functions`, in tests.
"""

import numpy as np

from minigam.engine.numeric import mills_ratio


def horner(coefficients: tuple[float, ...], x: str) -> str:
    """Return the C expression of a polynomial with these coefficients, the highest power first."""
    text = f"{coefficients[0]}f"
    for a in coefficients[1:]:
        text = f"({text} * {x} + {a}f)"
    return text


# (e^r - 1 - r) / r^2 for |r| < 0.35;  (atanh s / s - 1) / s^2 for s < 1/3;  the same of tanh for x < 0.63
EXP = (0.00138176477, 0.00836872385, 0.0416683435, 0.166665206, 0.499999936)
ATANH = (0.121460897, 0.107150147, 0.143083292, 0.199994433, 0.333333378)
TANH = (-0.00564783188, 0.0205892912, -0.0537249411, 0.133312724, -0.333332761)
_P, _Q, _END = mills_ratio(np.dtype("float32"))

FUNCTIONS = f"""
typedef struct {{ REAL value, slope; }} Normal;

#ifdef FLOAT32
static inline unsigned bits_of(float x) {{ unsigned i; memcpy(&i, &x, 4); return i; }}
static inline float float_of(unsigned i) {{ float x; memcpy(&x, &i, 4); return x; }}

// x = k ln 2 + r; e^r is a polynomial. 2^k in two factors: neither overflows, and a denormal rounds once.
static inline float exp_(float x) {{
    const float in = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;  // beyond these 0 and infinity; nan stays
    const float shifted = in * 1.44269504f + 12582912.0f, k = shifted - 12582912.0f;  // 1.5 * 2^23 rounds
    const float r = (in - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts
    const unsigned whole = bits_of(shifted) - 0x4b400000u + 256u, half = whole / 2;  // 256 + k
    const float y = 1.0f + (r + r * r * {horner(EXP, "r")});
    return y * float_of((half - 1u) << 23) * float_of((whole - half - 1u) << 23);
}}

// log x = k ln 2 + log m with m between sqrt 1/2 and sqrt 2;   log m = 2 atanh s, s = (m - 1) / (m + 1)
static inline float log_(float x) {{
    const int tiny = x < 1.17549435e-38f;  // denormal
    const float scaled = tiny ? x * 16777216.0f : x;
    const int k = (int)(bits_of(scaled) - 0x3f3504f3u) >> 23;
    const float m = float_of(bits_of(scaled) - ((unsigned)k << 23)), s = (m - 1.0f) / (m + 1.0f), z = s * s;
    const float whole = (float)(k - (tiny ? 24 : 0));
    const float log_m = 2.0f * (s + s * z * {horner(ATANH, "z")});
    const float y = whole * 0.693359375f + (log_m - whole * 2.12194440e-4f);  // ln 2 in two parts
    return x > 0.0f ? x < INFINITY ? y : x : x == 0.0f ? -INFINITY : NAN;
}}

// For 0 <= x <= 1: log(1 + x) = 2 atanh s, s = x / (2 + x)
static inline float log1p_(float x) {{
    const float s = x / (2.0f + x), z = s * s;
    return 2.0f * (s + s * z * {horner(ATANH, "z")});
}}

static inline float tanh_(float x) {{
    const float size = fabsf(x), z = x * x, near = x + x * z * {horner(TANH, "z")};
    return copysignf(size < 0.63f ? near : 1.0f - 2.0f / (exp_(2.0f * size) + 1.0f), x);  // -0 stays -0
}}

// The distribution function of the standard normal and its density, see numeric.normal.
static inline Normal Phi_(float x) {{
    const float size = fabsf(x) < {_END}f ? fabsf(x) : {_END}f;
    const float phi = 0.398942280f * exp_(-0.5f * size * size);
    const float tail = phi * ({horner(_P, "size")} / {horner(_Q, "size")});
    return (Normal){{x < 0.0f ? tail : x >= 0.0f ? 1.0f - tail : x, phi}};
}}
#else
#define exp_ exp
#define log_ log
#define log1p_ log1p
#define tanh_ tanh
#define sqrtf sqrt
#define fabsf fabs
static inline Normal Phi_(double x) {{
    return (Normal){{0.5 * erfc(-x * 0.70710678118654752440), 0.39894228040143267794 * exp(-0.5 * x * x)}};
}}
#endif

// Right to the last bits however small it is. 1 - sigmoid(x), which cancels for large x, is sigmoid(-x).
static inline REAL sigmoid_(REAL x) {{
    const REAL e = exp_(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}}
"""
