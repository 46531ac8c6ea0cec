"""What is random in POPGym's tasks: ours is spread as POPGym's is, or as it says."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mazelib import Maze
from mazelib.generate.HuntAndKill import HuntAndKill
from popgym_reference import make_ours, make_reference
from quick import precise_jit

from memrl.envs.popgym.labyrinth import entrances, hunt_and_kill
from memrl.envs.popgym.minesweeper import _subset

SIGMAS = 4.5  # of the largest among some hundred frequencies


def sample(function, count, seed=0):
    return jax.tree.map(np.asarray, precise_jit(jax.vmap(function))(jax.random.split(jax.random.key(seed), count)))


def assert_same_shares(ours, theirs):
    """Of events [samples, events]: every one is as frequent in ours as in theirs."""
    one, two = ours.mean(0), theirs.mean(0)
    both = (one * len(ours) + two * len(theirs)) / (len(ours) + len(theirs))
    deviation = np.sqrt(both * (1 - both) * (1 / len(ours) + 1 / len(theirs)))
    assert (np.abs(one - two) <= SIGMAS * deviation).all()


def assert_shares(events, expected):
    """Of events [samples, events], every one is as frequent as expected [events]."""
    deviation = np.sqrt(expected * (1 - expected) / len(events))
    assert (np.abs(events.mean(0) - expected) <= SIGMAS * deviation).all()


# Labyrinths


@pytest.mark.parametrize("cells", [3, 5])
def test_mazes(cells):
    """Every passage is as frequent as in mazelib's, and so is every number of dead ends and of cells left out."""
    count = 3000
    ours = sample(lambda key: hunt_and_kill(key, cells), count)
    theirs = np.stack([HuntAndKill(cells, cells).generate() for _ in range(count)])
    assert_same_shares(ours.reshape(count, -1), theirs.reshape(count, -1))
    most = cells**2
    for number in (dead_ends, closed_cells):
        ours_n, theirs_n = (number(grids)[:, None] == np.arange(most) for grids in (ours, theirs))
        assert_same_shares(ours_n, theirs_n)


def dead_ends(grids):
    walls = sum(grids[:, y : y - 2 or None, x : x - 2 or None] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)))
    return ((walls == 3) & (grids[:, 1:-1, 1:-1] == 0)).sum((1, 2))


def closed_cells(grids):
    return grids[:, 1::2, 1::2].sum((1, 2))


def test_mazes_are_trees():
    """All cells that were visited hang together, without a loop."""
    for grid in sample(lambda key: hunt_and_kill(key, 9), 50):
        visited = (grid[1::2, 1::2] == 0).sum()
        passages = (grid == 0).sum() - visited
        assert passages == visited - 1
        reached, frontier = set(), [tuple(np.argwhere(grid == 0)[0])]
        while frontier:
            place = frontier.pop()
            reached.add(place)
            beside = [(place[0] + y, place[1] + x) for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            frontier += [p for p in beside if grid[p] == 0 and p not in reached]
        assert len(reached) == (grid == 0).sum()


def test_entrances():
    """Start and goal, of all pairs, as often as mazelib's."""
    count, cells = 6000, 3
    start, goal = sample(lambda key: entrances(key, cells), count)
    maze: Any = Maze()
    theirs = []
    maze.grid = np.ones((2 * cells + 1, 2 * cells + 1))
    for _ in range(count):
        maze.generate_entrances()
        theirs.append((*maze.start, *maze.end))
    pairs = sorted(set(theirs))
    assert len(pairs) == 4 * cells**2
    assert_same_shares(one_of(np.concatenate([start, goal], -1), pairs), one_of(np.array(theirs), pairs))


def one_of(rows, kinds):
    """Which of `kinds` each row is: [rows, kinds]; it must be one."""
    events = (rows[:, None] == np.array(kinds)[None]).all(-1)
    assert events.any(1).all()
    return events


# Boards


@pytest.mark.parametrize("options", [{"board_size": 8}, {"board_size": 5, "ship_sizes": (3, 2)}], ids=str)
def test_ships(options):
    count = 2000
    env, params = make_ours("BattleshipEasy", **options)
    ours = sample(lambda key: env.reset_env(key, params)[1].ships, count)
    reference = make_reference("Battleship", **{key: list(np.atleast_1d(v)) for key, v in options.items()} | options)
    theirs = np.stack([(reference.reset(seed=seed), reference.board)[1] for seed in range(count)]).astype(bool)
    ours = ours.reshape(theirs.shape)
    assert_same_shares(ours.reshape(count, -1), theirs.reshape(count, -1))
    neighbours = [np.arange(30) == touching(boards)[:, None] for boards in (ours, theirs)]
    assert_same_shares(*neighbours)


def touching(boards):
    """Pairs of squares side by side that both have a ship."""
    return (boards[:, 1:] & boards[:, :-1]).sum((1, 2)) + (boards[:, :, 1:] & boards[:, :, :-1]).sum((1, 2))


@pytest.mark.parametrize(("things", "size"), [(5, 2), (6, 5), (4, 4)])
def test_every_subset_is_equally_likely(things, size):
    drawn = sample(lambda key: _subset(key, things, size), 4000)
    masks = [[i in chosen for i in range(things)] for chosen in itertools.combinations(range(things), size)]
    assert_shares(one_of(drawn, masks), np.full(len(masks), 1 / len(masks)))


# Cards and arms


def test_hidden_cards_are_those_left():
    """The second card turned up has the colour of the first with probability 25/51."""
    env, params = make_ours("ConcentrationEasy")

    def two(key):
        _, state = env.reset_env(key, params)
        first, second = jax.random.split(key)
        _, state, *_ = env.step_env(first, state, jnp.int32(3), params)
        return env.step_env(second, state, jnp.int32(40), params)[1].kinds[jnp.array([3, 40])]

    kinds = sample(two, 4000)
    assert_shares((kinds[:, 0] == kinds[:, 1])[:, None], np.array([25 / 51]))


def test_questions_do_not_depend_on_cards():
    env, params = make_ours("CountRecallMedium")
    dealt = sample(lambda key: env.reset_env(key, params)[0], 4000)
    pairs = list(itertools.product(range(4), range(4)))
    assert_shares(one_of(dealt, pairs), np.full(16, 1 / 16))


def test_arms():
    """Odds are uniform, independent, and what the arms pay by."""
    count = 4000
    env, params = make_ours("MultiarmedBanditEasy")

    def pull(key):
        reset_key, arm_key, key = jax.random.split(key, 3)
        _, state = env.reset_env(reset_key, params)
        arm = jax.random.randint(arm_key, (), 0, 10)
        return state.odds, arm, env.step_env(key, state, arm, params)[0]

    odds, arms, paid = sample(pull, count)
    tenths = (odds[:, :, None] // 0.1 == np.arange(10)).reshape(count, -1)
    assert_shares(tenths, np.full(100, 0.1))
    assert np.abs(np.corrcoef(odds.T) - np.eye(10)).max() < SIGMAS / np.sqrt(count)
    pulled = odds[np.arange(count), arms]
    for low in np.arange(0, 1, 0.25):
        there = (pulled >= low) & (pulled < low + 0.25)
        assert_shares(paid[there][:, None], np.array([pulled[there].mean()]))
