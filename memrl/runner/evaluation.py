"""How good a trained policy is: whole episodes on fresh seeds, greedy and sampled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memrl.agents.rollout import environment_keys
from memrl.experiment import Assembly
from memrl.runner.acting import choose
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

    keys = jax.vmap(lambda key: jax.random.fold_in(key, _STREAM))(keys)
    return jax.jit(lambda states, keys: _play(assembly, states, keys, episodes, greedy=greedy))(states, keys)


def _play(assembly: Assembly, states: Any, keys: Key, episodes: int, *, greedy: bool) -> Episodes:
    """One loop for all seeds: environments on the host allow no condition that `vmap` turns into one per seed."""

    def unfinished(carry):
        t, played = carry
        return (t < MAX_STEPS) & ~jnp.all(played.total.finished)

    def step(carry):
        t, played = carry
        return t + 1, jax.vmap(lambda *seed: _step(assembly, t, *seed, greedy=greedy))(states, keys, played)

    played = jax.vmap(lambda state, key: _start(assembly, state, key, episodes))(states, keys)
    return lax.while_loop(unfinished, step, (jnp.int32(0), played))[1].total


class _Played(NamedTuple):
    """Where one seed's environments are, E of them."""

    environment: Any
    observation: Any
    memory: Any
    total: Episodes


def _start(assembly: Assembly, state: Any, key: Key, episodes: int) -> _Played:
    env, env_params, agent = assembly
    memory = agent.network(state).initial_state(episodes)
    observation, environment = jax.vmap(env.reset, (0, None))(environment_keys(key, episodes), env_params)
    nothing = Episodes(jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes, bool))
    return _Played(environment, observation, memory, nothing)


def _step(assembly: Assembly, t: Array, state: Any, key: Key, played: _Played, *, greedy: bool) -> _Played:
    env, env_params, agent = assembly
    network = agent.network(state)
    keys = environment_keys(key, len(played.total.returns))

    def keys_of(use: int) -> Key:
        return jax.vmap(lambda k: jax.random.fold_in(k, 2 * t + use))(keys)

    reset = jnp.broadcast_to(t == 0, keys.shape)
    memory, output = network.step(played.memory, agent.see(state, played.observation), reset)
    action = choose(output.policy, None if greedy else keys_of(0))
    observation, environment, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
        keys_of(1), played.environment, network.environment_action(action), env_params
    )
    running = ~played.total.finished
    total = Episodes(
        played.total.returns + jnp.where(running, reward, 0),
        played.total.lengths + running,
        played.total.finished | terminated | truncated,
    )
    return _Played(environment, observation, memory, total)


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
