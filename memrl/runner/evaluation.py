"""How good a trained policy is: whole episodes on fresh seeds, greedy and sampled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memrl.agents.rollout import environment_keys
from memrl.experiment import Assembly
from memrl.types import Array, Key

_STREAM = 0x6576616C  # sets the evaluation's random numbers apart from the training's
MAX_STEPS = 100_000


class Episodes(NamedTuple):
    """Complete episodes, one per environment."""

    returns: Array  # [S, E]
    lengths: Array  # [S, E] int32
    finished: Array  # [S, E] bool, false where MAX_STEPS cut the episode


def evaluate(assembly: Assembly, states: Any, keys: Key, episodes: int, *, greedy: bool) -> Episodes:
    """Plays `episodes` episodes with each seed's policy.

    Every environment plays exactly one episode, so that short episodes are not counted more often than long ones.

    Args:
        assembly: environment and agent.
        states: train states, leaves [S, ...].
        keys: the seeds' keys, [S].
        episodes: E.
        greedy: take the most probable action instead of sampling.
    """

    def one_seed(state: Any, key: Key) -> Episodes:
        return _play(assembly, state, jax.random.fold_in(key, _STREAM), episodes, greedy=greedy)

    return jax.jit(jax.vmap(one_seed))(states, keys)


def _play(assembly: Assembly, state: Any, key: Key, episodes: int, *, greedy: bool) -> Episodes:
    env, env_params, agent = assembly
    network = agent.network(state)
    keys = environment_keys(key, episodes)

    def keys_of(t: Array, use: int) -> Key:
        return jax.vmap(lambda k: jax.random.fold_in(k, 2 * t + use))(keys)

    def step(carry):
        t, environment, observation, reset, memory, total = carry
        memory, output = network.step(memory, agent.see(state, observation), reset)
        policy = output.policy
        action = policy.mode() if greedy else jax.vmap(lambda p, k: p.sample(seed=k))(policy, keys_of(t, 0))
        observation, environment, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
            keys_of(t, 1), environment, network.environment_action(action), env_params
        )
        running = ~total.finished
        total = Episodes(
            total.returns + jnp.where(running, reward, 0),
            total.lengths + running,
            total.finished | terminated | truncated,
        )
        return t + 1, environment, observation, jnp.zeros(episodes, bool), memory, total

    observation, environment = jax.vmap(env.reset, (0, None))(keys, env_params)
    nothing = Episodes(jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes, bool))
    start = (
        jnp.int32(0),
        environment,
        observation,
        jnp.ones(episodes, bool),
        network.initial_state(episodes),
        nothing,
    )
    return lax.while_loop(lambda c: (c[0] < MAX_STEPS) & ~jnp.all(c[-1].finished), step, start)[-1]


def summarise(episodes: Episodes) -> dict[str, Any]:
    """Numbers worth keeping, as JSON values; means are over finished episodes only."""
    returns, lengths, finished = (np.asarray(x) for x in episodes)
    kept = np.where(finished, returns, np.nan)
    per_seed = [float(np.nanmean(row)) if done.any() else None for row, done in zip(kept, finished, strict=True)]
    return {
        "episodes_per_seed": int(returns.shape[1]),
        "unfinished": int((~finished).sum()),
        "mean_return": float(np.nanmean(kept)) if finished.any() else None,
        "std_return": float(np.nanstd(kept)) if finished.any() else None,
        "mean_length": float(lengths[finished].mean()) if finished.any() else None,
        "mean_return_per_seed": per_seed,
    }
