"""Memories that learn at test time, by their definition: one environment and one step at a time, in float64.

The weights of every step are held, and the gradient is JAX's own of the loss that the paper writes down.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cores.references.common import convolve, pieces, rms_normed, sigmoid, silu, unit_vector


def loss(weights, k, v):
    """||M(k) - v||^2."""
    return jnp.sum((network(jnp, weights, k) - v) ** 2)


def network(xp, weights, x):
    for i, w in enumerate(weights):
        x = x @ w if i == 0 else gelu(xp, x) @ w
    return x


def gelu(xp, x):
    return 0.5 * x * (1 + xp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@partial(jax.jit, static_argnums=0)
def _gradient(loss, weights, k, v):
    return jax.grad(loss)(weights, k, v)


def gradient(loss, weights, k, v):
    with jax.enable_x64(True):
        return [np.array(g) for g in _gradient(loss, weights, k, v)]


def clipped(gradient, bound):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
    return [g * min(1, bound / norm) for g in gradient]


def reference(config, p, state, xs, resets):
    """`state` is that of `memrl.cores.neural_memory`, one row of which is one environment's."""
    ys, last = np.zeros_like(xs), jax.tree.map(np.copy, state)
    for row in range(xs.shape[1]):
        start = jax.tree.map(lambda x, row=row: x[row : row + 1], state)
        for t in range(len(xs)):
            start, ys[t, row] = step(config, p, start, xs[t, row], bool(resets[t, row]))
        for whole, part in zip(jax.tree.leaves(last), jax.tree.leaves(start), strict=True):
            whole[row] = part[0]
    return ys, last


def step(config, p, state, x, reset):
    d, C = config.width, config.chunk_length
    W_0 = [p["network"]["layers"][i] for i in range(config.depth)]
    inputs, memory = state.inputs, state.memory
    base, W, S = ([layer[0] for layer in weights] for weights in memory[:3])
    if reset:
        inputs, base, W, S = np.zeros_like(inputs), W_0, W_0, [np.zeros_like(w) for w in W_0]
    qkv, gate, gates = pieces(x @ p["project"]["kernel"], 3 * d, d, 3)
    inputs, (qkv,) = convolve(p["convolution"], inputs, qkv[None])
    q, k, v = pieces(silu(qkv), d, d, d)
    q, k = unit_vector(q), unit_vector(k)
    theta, eta, alpha = sigmoid(gates + p["gate_bias"])
    slopes = clipped(gradient(loss, base, k, v), config.max_gradient_norm)
    S = [eta * s - config.max_learning_rate * theta * g for s, g in zip(S, slopes, strict=True)]
    W = [(1 - alpha) * w + s for w, s in zip(W, S, strict=True)]
    o = network(np, W, q)
    phase = (memory.phase + 1) % C
    base = W if phase[0] == 0 else base
    memory = memory._replace(
        base=tuple(w[None] for w in base),
        weights=tuple(w[None] for w in W),
        momentum=tuple(s[None] for s in S),
        phase=phase,
    )
    y = (rms_normed(o) * p["norm"]["scale"][0] * silu(gate)) @ p["output"]["kernel"]
    return state._replace(inputs=inputs, memory=memory), y
