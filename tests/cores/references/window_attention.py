"""Window attention: each step looks through a list of the keys and values of its own episode, the latest last."""

import numpy as np
from cores.references.common import over_episodes, softmax

VARIANTS = [{"window": 3, "heads": 2}, {"window": 1, "heads": 4, "rotary_base": 10.0}, {"window": 13}]


def reference(config, p, state, xs, resets):
    D = xs.shape[-1]
    H = config.heads or 1
    w_q, w_k, w_v = np.split(p["input"]["kernel"], 3, -1)

    def step(past, x):
        past = [*past, np.concatenate([x @ w_k, x @ w_v])][-config.window - 1 :]
        keys, values = (np.reshape(past, (-1, 2, H, D // H))[:, i] for i in (0, 1))
        query = (x @ w_q).reshape(H, -1)
        y = np.zeros((H, D // H))
        for h in range(H):
            scores = [
                turn(query[h], len(past) - 1, config.rotary_base) @ turn(key[h], s, config.rotary_base)
                for s, key in enumerate(keys)
            ]
            y[h] = softmax(np.array(scores) / np.sqrt(D // H)) @ values[:, h]
        return past[-config.window :], y.reshape(D) @ p["output"]["kernel"]

    return over_episodes(step, state, xs, resets)


def turn(x, position, base):
    """Each pair of channels as a complex number, times a power of a root of unity."""
    half = len(x) // 2
    pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([pairs.real, pairs.imag])
