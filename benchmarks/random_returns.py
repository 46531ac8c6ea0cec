"""What uniformly random actions earn: the numbers in memrl/envs/known_returns.py.

    python benchmarks/random_returns.py                    # all environments of the table, half an hour on 2 cores
    python benchmarks/random_returns.py --only HigherLower --optimal

prints name, mean return, and standard error. `--optimal` plays HigherLower by counting cards, which is its best policy:
what is dealt does not depend on the bets.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from memrl.envs import list_envs, make_env


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    only: tuple[str, ...] = ()
    """Parts of names, all of popgym/, memory/ and meta/ when not given."""
    episodes: int = 16384
    """Episodes of each environment, side by side."""
    batches: int = 4
    """Times that as many episodes are played."""
    optimal: bool = False
    """Play HigherLower by counting cards."""


def random_returns(name: str, episodes: int, seed: int = 0, *, counting: bool = False) -> np.ndarray:
    """Returns [episodes] of whole episodes, of random actions or of HigherLower's best."""
    env, params = make_env(name)
    space = env.action_space(params)

    def best_bet(state):
        ranks = jnp.arange(len(state.counts))
        higher = jnp.sum(jnp.where(ranks > state.card, state.counts, 0))
        lower = jnp.sum(jnp.where(ranks < state.card, state.counts, 0))
        return (lower > higher).astype(jnp.int32)

    def step(carry):
        key, state, total, done = carry
        key, action_key, step_key = jax.random.split(key, 3)
        actions = (
            jax.vmap(best_bet)(state) if counting else jax.vmap(space.sample)(jax.random.split(action_key, episodes))
        )
        _, state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(step_key, episodes), state, actions, params
        )
        return key, state, total + jnp.where(done, 0.0, reward), done | terminated | truncated

    @jax.jit
    def play(key):
        key, reset_key = jax.random.split(key)
        _, state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, episodes), params)
        start = key, state, jnp.zeros(episodes), jnp.zeros(episodes, bool)
        return lax.while_loop(lambda carry: ~jnp.all(carry[3]), step, start)[2]

    return np.asarray(play(jax.random.key(seed)), np.float64)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    for name in list_envs():
        if name.split("/")[0] not in ("popgym", "memory", "meta"):
            continue
        if options.only and not any(part in name for part in options.only):
            continue
        batches = range(options.batches)
        returns = np.concatenate(
            [random_returns(name, options.episodes, seed, counting=options.optimal) for seed in batches]
        )
        error = returns.std() / np.sqrt(len(returns))
        print(f"{name:<40} {returns.mean():9.5f} ± {error:.5f}", flush=True)


if __name__ == "__main__":
    main()
