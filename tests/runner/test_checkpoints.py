import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import memrl
from memrl.errors import MemrlError
from memrl.runner.checkpoints import Checkpoints

# Start of a script that imports single modules of memrl, without all that its __init__ imports.
BARE = f"""if True:
    import sys, types
    sys.modules["memrl"] = types.ModuleType("memrl")
    sys.modules["memrl"].__path__ = {list(memrl.__path__)!r}
"""


class Train(NamedTuple):
    params: nnx.State
    optimizer: optax.OptState
    keys: jax.Array
    update: jax.Array
    extra: dict


def train_state(seed=0):
    params = nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    bits = jnp.asarray(rng.integers(0, 2**32, (5, 2), dtype=np.uint32))
    extra = {
        "bits": jax.lax.bitcast_convert_type(bits, jnp.float32),  # NaNs of every kind among them
        "bfloat16": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "complex": jnp.asarray([1 + 2j, np.nan - 1j]),
        "flags": jnp.asarray([True, False]),
        "none": None,
        "empty": jnp.zeros((0, 3), jnp.int8),
        "weak": jnp.asarray(0.1) * seed,
        "weak_vector": jnp.broadcast_to(jnp.asarray(3), (2,)),
        "rbg": jax.random.key(seed, impl="rbg"),
        "numpy": rng.normal(size=3),
        "int": 3 + seed,
        "float": 0.1 + seed,
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1.0, 0.0, 9)))
    keys = jax.random.split(jax.random.key(seed), 3)
    return Train(params, optimizer.init(params), keys, jnp.int32(seed), extra)


def raw(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    pairs = zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True)
    for (path, a), b in pairs:
        assert type(a) is type(b), path
        assert np.shape(a) == np.shape(b), path
        assert raw(a) == raw(b), path
        if isinstance(a, jax.Array):
            assert (a.dtype, a.sharding, a.committed) == (b.dtype, b.sharding, b.committed), path
            assert getattr(a, "weak_type", None) == getattr(b, "weak_type", None), path  # keys have none


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 1 and 2, each holding a small state; copy it before use."""
    folder = tmp_path_factory.mktemp("two")
    for update in (1, 2):
        Checkpoints(folder).save(update, {"w": jnp.arange(1000.0) + update, "n": jnp.int32(update)})
    return folder


@pytest.fixture
def pair(two, tmp_path):
    shutil.copytree(two, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints")


LIKE = {"w": jnp.zeros(1000), "n": jnp.int32(0)}


def test_a_train_state_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path / "deep" / "folder")
    state = train_state(seed=1)
    checkpoints.save(7, state)
    restored = checkpoints.restore(train_state(seed=0))
    assert (restored.update, restored.skipped) == (7, ())
    assert_same(restored.state, state)
    follow = jax.random.normal(restored.state.keys[1])
    assert follow == jax.random.normal(state.keys[1])


def test_a_restored_state_compiles_nothing_new_and_can_be_donated(pair):
    step: Any = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state))
    step(LIKE)
    state = pair.restore(LIKE).state
    step(state)
    assert step._cache_size() == 1
    jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s), donate_argnums=0)(state)
    assert state["w"].is_deleted()


def test_shapes_are_enough_to_restore(pair):
    like = jax.eval_shape(lambda: LIKE)
    assert_same(pair.restore(like).state, {"w": jnp.arange(1000.0) + 2, "n": jnp.int32(2)})


def test_sharding_is_that_of_like(tmp_path):
    code = f"""if True:
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from memrl.runner.checkpoints import Checkpoints
        mesh = Mesh(np.array(jax.devices()), ("seed",))
        cut, whole = NamedSharding(mesh, P("seed")), NamedSharding(mesh, P())
        put = lambda a, b: {{"x": jax.device_put(jnp.arange(4.0), a), "y": jax.device_put(jnp.ones(3), b),
                            "k": jax.device_put(jax.random.split(jax.random.key(0), 2), a)}}
        checkpoints = Checkpoints({str(tmp_path)!r})
        state = put(cut, whole)
        checkpoints.save(1, state)
        for like in (state, put(whole, jax.devices()[1])):
            got = checkpoints.restore(like).state
            for name in state:
                assert got[name].sharding == like[name].sharding, name
                assert got[name].committed
                assert (got[name] == jax.device_put(state[name], like[name].sharding)).all()
    """
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    strict = ["-W", "error", "-W", "ignore:jax.core:DeprecationWarning"]
    subprocess.run([sys.executable, *strict, "-c", BARE + code], check=True, env={**os.environ, **flags})


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.updates() == []
    for update in (5, 10, 100):
        checkpoints.save(update, {"n": jnp.int32(update)})
    assert checkpoints.updates() == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.save(20, {"n": jnp.int32(-20)})  # the run went back: 100 is of another future
    assert checkpoints.updates() == [10, 20]
    checkpoints.save(20, {"n": jnp.int32(-21)})
    assert checkpoints.restore({"n": jnp.int32(0)})[:2] == (20, {"n": jnp.int32(-21)})


def test_nothing_is_removed_before_the_new_one_is_whole(pair, monkeypatch):
    class FullError(Exception):
        pass

    def full(*args):
        raise FullError

    monkeypatch.setattr("memrl.runner.checkpoints._write_manifest", full)
    with pytest.raises(FullError):
        pair.save(3, LIKE)
    assert pair.updates() == [1, 2]
    monkeypatch.undo()
    assert len(list(pair.folder.iterdir())) == 2, "on a full disk, an unfinished checkpoint would be in the way"
    assert pair.restore(LIKE).update == 2
    pair.save(3, LIKE)
    assert pair.updates() == [2, 3]
    assert len(list(pair.folder.iterdir())) == 2, "the next save clears it away"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damage_to_any_file_is_found_and_the_one_before_is_used(pair, two, damage):
    newest = pair.folder / "update_00000002"
    names = files(newest)
    assert len(names) > 5
    for name in names:
        damage(newest / name) if (newest / name).stat().st_size else (newest / name).unlink()
        restored = pair.restore(LIKE)
        assert restored.update == 1
        assert_same(restored.state, {"w": jnp.arange(1000.0) + 1, "n": jnp.int32(1)})
        (report,) = restored.skipped
        assert report.startswith("update_00000002: ")
        assert name in report
        shutil.copy(two / "update_00000002" / name, newest / name)
    assert pair.restore(LIKE).update == 2


def test_cheap_listing_leaves_out_what_is_visibly_damaged(pair):
    cut(pair.folder / "update_00000001" / "state" / "_METADATA")
    assert pair.updates() == [2]
    (pair.folder / "update_00000002" / "manifest.json").unlink()
    assert pair.updates() == []


def test_none_whole_names_the_folder(pair, tmp_path):
    for update in (1, 2):
        flip(pair.folder / f"update_0000000{update}" / "state" / "_METADATA")
    with pytest.raises(MemrlError) as error:
        pair.restore(LIKE)
    assert f"no whole checkpoint in {pair.folder}; damaged: update_00000002: state/_METADATA" in str(error.value)
    with pytest.raises(MemrlError, match=r"no whole checkpoint in .*/nowhere$"):
        Checkpoints(tmp_path / "nowhere").restore(LIKE)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({**LIKE, "w": jnp.zeros(999)}, r"\['w'\] is float32\[1000\] there and float32\[999\] here"),
        ({**LIKE, "n": jnp.uint32(0)}, r"\['n'\] is int32\[\] there and uint32\[\] here"),
        ({**LIKE, "b": jnp.zeros(2)}, r"\['b'\] is missing there and float32\[2\] here"),
        ({"w": LIKE["w"], "n": None}, r"\['n'\] is int32\[\] there and missing here"),
        ({**LIKE, "n": jax.random.key(0)}, r"\['n'\] is int32\[\] there and key<fry>\[\] here"),
    ],
)
def test_another_configs_state_is_an_error_that_names_the_leaf(pair, like, message):
    with pytest.raises(MemrlError, match=rf"update_00000002 does not fit this experiment: {message}") as error:
        pair.restore(like)
    assert "\n" not in str(error.value)


def test_the_manifest_tells_what_is_inside(pair):
    manifest = json.loads((pair.folder / "update_00000002" / "manifest.json").read_text())
    assert manifest["leaves"] == [["['n']", "int32[]"], ["['w']", "float32[1000]"]]


def test_orbax_is_imported_when_it_is_needed():
    code = "    import memrl.runner.checkpoints; assert 'orbax' not in ' '.join(sys.modules)"
    subprocess.run([sys.executable, "-c", BARE + code], check=True)


def test_keeping_none_is_an_error(tmp_path):
    with pytest.raises(MemrlError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


# Imports once and forks per line of input: the child saves in a loop until it is killed.
SAVER = """if True:
    import os, sys
    import jax, jax.numpy as jnp, optax, orbax.checkpoint
    from memrl.runner.checkpoints import Checkpoints
    for line in sys.stdin:
        folder, first = line.split()
        child = os.fork()
        if child == 0:
            update = int(first)
            while True:
                update += 1
                state = {"x": jnp.full((50, 1000), update), "key": jax.random.key(update)}
                Checkpoints(folder).save(update, state)
                print(update, flush=True)
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_saved(tmp_path):
    like = {"x": jnp.zeros((50, 1000), jnp.int32), "key": jax.random.key(0)}
    checkpoints = Checkpoints(tmp_path)
    chance = random.Random(0)
    saver = subprocess.Popen(
        [sys.executable, "-c", BARE + SAVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert saver.stdin
    assert saver.stdout
    update, cut_short = 0, 0
    for _ in range(10):
        print(tmp_path, update, file=saver.stdin, flush=True)
        child = int(saver.stdout.readline().removeprefix("pid"))
        saved = int(saver.stdout.readline())
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        while (line := saver.stdout.readline().strip()) != "dead":
            saved = int(line)
        cut_short += any(tmp_path.glob(".tmp_*"))
        restored = checkpoints.restore(like)
        update = restored.update
        assert update in (saved, saved + 1), "what save returned from is there"
        assert restored.skipped == ()
        assert (restored.state["x"] == update).all()
        assert raw(restored.state["key"]) == raw(jax.random.key(update))
        assert 1 <= len(checkpoints.updates()) <= 3
    saver.stdin.close()
    saver.stdout.close()
    assert saver.wait() == 0
    assert cut_short >= 3, "the kills must hit saves, or the test shows nothing"
