"""Memories that learn at test time, by their definition: one environment and one step at a time, in float64.

The weights of every step are held, and the gradient is JAX's own of the loss that the paper writes down.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cores.references.common import affine, convolve, pieces, rms_normed, sigmoid, silu, softplus, unit_vector


def network(xp, config, norm, weights, x):
    h = x
    for i, w in enumerate(weights):
        h = h if i == 0 else 0.5 * h * (1 + xp.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        h = (h @ w[:-1] + w[-1]) if config.offset else h @ w
    if not config.residual:
        return h
    centred = h - xp.mean(h)
    return x[: len(h)] + centred / xp.sqrt(xp.mean(centred**2) + 1e-6) * norm["scale"] + norm["bias"]


def loss(config, weights, norm, k, v, threshold):
    y = network(jnp, config, norm, weights, k)
    match config.bias:
        case "dot_product":
            return -jnp.dot(y, v)
        case "l2":
            return jnp.sum((y - v) ** 2)
        case "lp":
            return jnp.sum(jnp.abs(y - v) ** config.bias_power)
    distance = jnp.linalg.norm(y - v)
    return 2 * jnp.where(distance > threshold, threshold * (distance - threshold / 2), distance**2 / 2)


@partial(jax.jit, static_argnums=0)
def _gradient(config, weights, norm, k, v, threshold):
    return jax.grad(loss, 1)(config, weights, norm, k, v, threshold)


def gradient(config, weights, norm, k, v, threshold):
    """Of the loss with respect to the weights; scaled back where it is longer than the bound."""
    with jax.enable_x64(True):
        slopes = [np.array(g) for g in _gradient(config, weights, norm, k, v, threshold)]
    norm = np.sqrt(sum(np.sum(g**2) for g in slopes))
    return [g * min(1, config.max_gradient_norm / norm) for g in slopes]


def weights_of(config, trained):
    """The weights as a function of what the gradients change."""
    if config.retention == "lq":
        q = config.retention_power
        return [a / (np.sum(np.abs(a) ** q) + 1e-6) ** ((q - 2) / q) for a in trained]
    if config.retention == "kl":
        return [np.exp(a) / np.sum(np.exp(a), 0) for a in trained]
    return trained


def orthogonalised(x):
    """Newton and Schulz's iteration with the coefficients of Muon, on the side that is short."""
    if len(x) > len(x.T):
        return orthogonalised(x.T).T
    x = x / np.sqrt(np.sum(x**2) + 1e-6)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def reference(config, p, state, xs, resets):
    """`state` is that of `memrl.cores.neural_memory`, one row of which is one environment's."""
    ys, last = np.zeros_like(xs), jax.tree.map(np.copy, state)
    for row in range(xs.shape[1]):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], state)
        for t in range(len(xs)):
            one, ys[t, row] = step(config, p, one, xs[t, row], bool(resets[t, row]))
        for whole, part in zip(jax.tree.leaves(last), jax.tree.leaves(one), strict=True):
            whole[row] = part[0]
    return ys, last


def list_of(past):
    """The tokens of the running episode, the oldest first: k, v and threshold."""
    if not past:
        return []
    return [(past.k[0, i], past.v[0, i], past.threshold[0, i]) for i in np.flatnonzero(past.episode[0] == 0)]


def past_of(tokens, like):
    """The other way round: the latest last, after zeros."""
    past = like._replace(episode=np.full_like(like.episode, -1))
    past = past._replace(**{name: np.zeros_like(getattr(like, name)) for name in ("k", "v", "threshold")})
    for i, (k, v, threshold) in enumerate(reversed(tokens), 1):
        past.k[0, -i], past.v[0, -i], past.threshold[0, -i], past.episode[0, -i] = k, v, threshold, 0
    return past


def address(config, p, x):
    """A key or a query as the memory takes it."""
    x = unit_vector(x)
    if config.degree == 1:
        return x
    return np.concatenate([a * x**i for i, a in enumerate(p["features_of"]["coefficients"], 1)])


def step(config, p, state, x, reset):
    d, C = config.width, config.chunk_length
    A_0 = [p["network"]["layers"][i] for i in range(config.depth)]
    norm = p["network"].get("norm", {})
    inputs, memory = state.inputs, state.memory
    before = list_of(memory.past)
    base, A, S = ([layer[0] for layer in weights] for weights in memory[:3])
    if reset:
        inputs, base, A, S = np.zeros_like(inputs), A_0, A_0, [np.zeros_like(s) for s in S]
        before = []

    projected = affine(p["project"], x)
    c = config.window
    gates_of_window = c if c > 1 else 0
    rest = len(projected) - 4 * d - gates_of_window
    qkv, o_gate, gates, gamma = pieces(projected, 3 * d, d, rest, gates_of_window)
    inputs, (qkv,) = convolve(p["convolution"], inputs, qkv[None])
    q, k, v = pieces(silu(qkv), d, d, d)
    q, k = address(config, p, q), address(config, p, k)
    gates = list(gates)
    theta = config.max_learning_rate * sigmoid(gates.pop(0))
    eta = sigmoid(gates.pop(0)) if config.optimiser != "gradient" else None
    alpha = sigmoid(gates.pop(0)) if config.retention != "none" else 0
    threshold = softplus(gates.pop(0)) if config.bias == "huber" else 0.0

    tokens = [*before, (k, v, threshold)][-c:]
    gamma = sigmoid(gamma[c - len(tokens) :]) if c > 1 else [1.0]
    each = [gradient(config, weights_of(config, base), norm, *token) for token in tokens]
    slopes = [sum(g * slope for g, slope in zip(gamma, layer, strict=True)) for layer in zip(*each, strict=True)]
    if config.optimiser == "gradient":
        change = [-theta * g for g in slopes]
    elif config.optimiser == "momentum":
        change = S = [eta * s - theta * g for s, g in zip(S, slopes, strict=True)]
    else:
        S = [eta * s - g for s, g in zip(S, slopes, strict=True)]
        change = [theta * orthogonalised(s) for s in S]
    A = [(1 - alpha) * a + c for a, c in zip(A, change, strict=True)]
    o = network(np, config, norm, weights_of(config, A), q)

    phase = (memory.phase + 1) % C
    base = A if phase[0] == 0 else base
    memory = memory._replace(
        base=tuple(a[None] for a in base),
        weights=tuple(a[None] for a in A),
        momentum=tuple(s[None] for s in S),
        phase=phase,
        past=past_of(tokens[1 - c :], memory.past) if c > 1 else (),
    )
    y = (rms_normed(o) * p["norm"]["scale"][0] * silu(o_gate)) @ p["output"]["kernel"]
    return state._replace(inputs=inputs, memory=memory), y
