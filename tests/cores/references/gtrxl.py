"""GTrXL: each step looks through a list of the inputs of its own episode, the latest last."""

import numpy as np
from cores.references.common import affine, layer_norm, over_episodes, sigmoid, softmax

VARIANTS = [
    {"memory": 3, "heads": 2, "gate_bias": 0.5},
    {"memory": 1, "heads": 4, "hidden_size": 20, "gate": False},
    {"memory": 13},
]


def reference(config, p, state, xs, resets):
    D = xs.shape[-1]
    H = config.heads or 1
    u, v = p["content_bias"], p["position_bias"]
    w_k, w_v = np.split(p["key_value"]["kernel"], 2, -1)

    def attention(inputs):
        inputs = [layer_norm(p["norm"], x) for x in inputs]
        q = (inputs[-1] @ p["query"]["kernel"]).reshape(H, -1)
        y = np.zeros_like(q)
        for h in range(H):
            scores = []
            for age, x in zip(range(len(inputs))[::-1], inputs, strict=True):
                k = (x @ w_k).reshape(H, -1)[h]
                r = (sinusoid(age, D) @ p["position"]["kernel"]).reshape(H, -1)[h]
                scores.append(q[h] @ k + q[h] @ r + u[h] @ k + v[h] @ r)
            y[h] = softmax(np.array(scores) / np.sqrt(D // H)) @ [(x @ w_v).reshape(H, -1)[h] for x in inputs]
        return y.reshape(D) @ p["output"]["kernel"]

    def mlp(x):
        return affine(p["mlp_output"], np.maximum(affine(p["mlp_hidden"], layer_norm(p["mlp_norm"], x)), 0))

    def step(past, x):
        past = [*past, x][-config.memory - 1 :]
        y = gate(p.get("gate"), x, attention(past))
        return past[-config.memory :], gate(p.get("mlp_gate"), y, mlp(y))

    return over_episodes(step, state, xs, resets)


def sinusoid(age, D):
    angles = [age / 10_000 ** (i / D) for i in range(0, D, 2)]
    return np.concatenate([np.sin(angles), np.cos(angles)])


def gate(p, x, y):
    """Without parameters the sublayer is added. A ReLU comes before either."""
    y = np.maximum(y, 0)
    if p is None:
        return x + y
    w_r, w_z, w_g = np.split(p["from_y"]["kernel"], 3, -1)
    u_r, u_z = np.split(p["from_x"]["kernel"], 2, -1)
    r = sigmoid(y @ w_r + x @ u_r)
    z = sigmoid(y @ w_z + x @ u_z - p["bias"])
    h = np.tanh(y @ w_g + (r * x) @ p["from_reset"]["kernel"])
    return (1 - z) * x + z * h
