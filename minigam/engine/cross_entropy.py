"""The loss: cross-entropy of logits, and of a linear head."""

from minigam.engine.dispatch import op
from minigam.engine.numeric import rows, without_ignored
from minigam.engine.tensor import ShapeError


@op
def cross_entropy(xp, logits, targets):
    """Loss of every prediction, in nats.   y = log(sum over v of exp(logits_v)) - logits_target

    logits  : (..., V)
    targets : (...) integers below V; a negative target is ignored, and its loss is 0
    returns (...)   one loss per target; for the mean, divide their sum by the number of targets >= 0
    Raises ShapeError unless targets has one entry for each row of logits.

    >>> mg.ops.cross_entropy(np.zeros((1, 8)), np.array([3])).numpy().round(3).tolist()  # ln 8
    [2.079]
    """
    z = without_ignored(xp, rows(logits), targets.reshape(-1))
    z = z - z.max(axis=-1, keepdims=True)
    e = xp.exp(z)
    total = e.sum(axis=-1, keepdims=True)
    counts = (targets >= 0).reshape(-1).astype(z.dtype)
    at_target = xp.arange(len(z)), xp.maximum(targets, 0).reshape(-1)
    loss = counts * (xp.log(total[:, 0]) - z[at_target])

    def backward(dy):
        dz = e / total  # softmax, minus 1 at the target
        dz[at_target] -= 1.0
        dz *= without_ignored(xp, dy.reshape(-1, 1), targets.reshape(-1))
        return dz.reshape(logits.shape), None

    return loss.reshape(targets.shape), backward


@cross_entropy.check
def _(logits, targets):
    if targets.shape != logits.shape[:-1]:
        raise ShapeError(f"cross_entropy: targets {targets.shape}, wanted {logits.shape[:-1]}")
    if logits.shape[-1] == 0:
        raise ShapeError(f"cross_entropy: logits {logits.shape}, wanted at least one class")


@op
def linear_cross_entropy(xp, x, weight, targets):
    """Mean loss of the predictions of a linear head, in nats.

        logits = x W^T,   y = mean of cross_entropy(logits, targets) over the targets >= 0

    x : (..., C)   weight : (V, C)   targets : (...) integers below V; a negative one is ignored
    returns ()
    Raises ShapeError if a shape does not fit.
    Holds all logits in memory; the faster rules hold those of a few rows at a time.

    >>> x, head = np.zeros((1, 4)), np.ones((8, 4))
    >>> round(mg.ops.linear_cross_entropy(x, head, np.array([3])).item(), 3)
    2.079
    """
    z = rows(without_ignored(xp, x, targets))
    losses, backward_losses = cross_entropy.rule(xp, z @ weight.T, targets.reshape(-1))
    count = (targets >= 0).sum().astype(x.dtype)

    def backward(dy):
        dlogits, _ = backward_losses(xp.zeros_like(losses) + dy / xp.maximum(count, 1.0))
        return (dlogits @ weight).reshape(x.shape), dlogits.T @ z, None

    return losses.sum() / count, backward


@linear_cross_entropy.check
def _(x, weight, targets):
    fits = weight.ndim == 2 and x.shape[-1:] == weight.shape[1:] and targets.shape == x.shape[:-1]
    if not fits or len(weight) == 0:
        raise ShapeError(
            f"linear_cross_entropy: x {x.shape}, weight {weight.shape}, targets {targets.shape}, "
            "wanted (..., C), (V, C), (...), V > 0"
        )
