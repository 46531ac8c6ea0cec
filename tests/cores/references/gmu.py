"""GMU: Ren et al. 2025, after a layer of S5, whose readout is its output before the activation."""

from cores.references import s5
from cores.references.common import sigmoid

from memrl import core_config

BEFORE = "s5"
VARIANTS = [{"source": "s5"}]


def reference(config, p, state, xs, resets):
    del config
    before, unit = p["layers"][0]["core"], p["layers"][1]["core"]
    inputs, _ = s5.reference(core_config("s5"), before, state[0], xs, resets)
    memory, last = s5.reference(core_config("s5", activation="none"), before, state[0], xs, resets)
    gate = inputs @ unit["gate"]["kernel"]
    return (memory * gate * sigmoid(gate)) @ unit["output"]["kernel"], (last, ())
