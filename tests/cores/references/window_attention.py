"""Window attention: each step looks through a list of the keys and values of its own episode, the latest last."""

import numpy as np
from cores.references.common import over_episodes, softmax

VARIANTS = [
    {"window": 3, "heads": 2, "persistent": 2},
    {"window": 3, "heads": 2},
    {"window": 1, "heads": 4, "rotary_base": 10.0},
    {"window": 13},
]


def reference(config, p, state, xs, resets):
    def step(past, x):
        past = [*past, attention_row(p, x)][-config.steps_back - 1 :]
        y = attention(config, p, x, [(row, place) for place, row in enumerate(past)])
        return past[-config.steps_back :], y

    return over_episodes(step, state, xs, resets)


def attention_row(p, x):
    """The key and the value of a token, those of all heads in a row."""
    _, w_k, w_v = np.split(p["input"]["kernel"], 3, -1)
    return np.concatenate([x @ w_k, x @ w_v])


def attention(config, p, x, past):
    """Of a token x, over rows with their positions, the last of which is that of x, and over persistent tokens."""
    D, H = len(x), config.heads or 1
    K = D // H
    query = x @ p["input"]["kernel"][:, :D]
    tokens = p["persistent"] if config.persistent else []
    y = np.zeros(D)
    for h in range(H):
        mine = slice(h * K, (h + 1) * K)
        turned = turn(query[mine], past[-1][1], config.rotary_base)
        scores = [turned @ turn(row[:D][mine], place, config.rotary_base) for row, place in past]
        scores += [query[mine] @ attention_row(p, token)[:D][mine] for token in tokens]
        values = [row[D:][mine] for row in [*(row for row, _ in past), *(attention_row(p, token) for token in tokens)]]
        y[mine] = softmax(np.array(scores) / np.sqrt(K)) @ values
    return y @ p["output"]["kernel"]


def turn(x, position, base):
    """Each pair of channels as a complex number, times a power of a root of unity."""
    half = len(x) // 2
    pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([pairs.real, pairs.imag])
