"""Wrong answers to the exercises of notebook 00."""

from answers import wrong


@wrong("00_1", says="token weighs the channels")
def both_over_channels(x, token, channel):
    return x * token * channel


@wrong("00_1", says="token and channel are exchanged")
def exchanged(x, token, channel):
    return x * channel[:, None] * token


@wrong("00_1", says="wanted x times both")
def added(x, token, channel):
    return x * (token[:, None] + channel)


@wrong("00_1", says="token is left out")
def channels_only(x, token, channel):
    return x * channel


@wrong("00_2", says="M must be turned")
def not_turned(x, M):
    return x @ M


@wrong("00_2", says="M is on the wrong side")
def memory_first(x, M):
    return M @ x


@wrong("00_2", says="wanted (B, T, S)")
def slots_before_tokens(x, M):
    return M @ x.swapaxes(1, 2)


@wrong("00_2", says="multiply first, then sum")
def product_of_sums(x, M):
    if M.shape[0] == M.shape[1]:
        return x @ M.T
    return x.sum(axis=-1, keepdims=True) * M.sum(axis=-1)


@wrong("00_3", says="the sum has lost its axis")
def without_keepdims(x):
    return x / x.sum(axis=-1)


@wrong("00_3", says="all numbers together")
def of_everything(x):
    return x / x.sum()


@wrong("00_3", says="over the tokens")
def over_tokens(x):
    return x / x.sum(axis=1, keepdims=True)


@wrong("00_3", says="over the batch")
def over_batch(x):
    return x / x.sum(axis=0)
