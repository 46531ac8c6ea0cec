"""`memrl export` leaves a policy, or one line that says why not."""

from pathlib import Path

import numpy as np
import pytest

import memrl
from memrl.cli import main

CONFIG = """
import memrl

experiment = memrl.Experiment(
    env="memory/TMaze",
    env_options={"length": 2},
    network=memrl.NetworkConfig(features=4, encoder_sizes=(), head_sizes=()),
    agent=memrl.PPOConfig(num_envs=2, num_steps=4, minibatches=1, epochs=1),
    total_steps=8,
    seeds=2,
    evaluation_episodes=1,
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "config.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        main(["train", str(folder / "config.py"), "--out", str(folder / "run"), "--quiet", "--track"])
    return folder / "run"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the tests' own cache alone


def test_a_policy(trained: Path, capsys: pytest.CaptureFixture[str]):
    main(["export", str(trained), "--out", "policy/", "--seed-index", "1"])
    assert capsys.readouterr().out == "policy\n"
    policy = memrl.load_policy("policy")
    assert (policy.facts.seed, policy.facts.greedy) == (1, True)
    state, action = policy.step(policy.initial_state(3), np.zeros((3, 4)), reset=True)
    assert action.shape == (3,)
    main(["export", str(trained), "--out", "policy", "--sampled", "--overwrite"])
    policy = memrl.load_policy("policy")
    assert (policy.facts.seed, policy.facts.greedy) == (0, False)
    main(["export", str(trained)])
    assert memrl.load_policy(trained / "policy").facts.greedy
    with pytest.raises(memrl.MemrlError, match="state is of"):
        policy.step(state, np.zeros((2, 4)), reset=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["RUN"]),
        (["nowhere"], ["run nowhere", "config.json"]),
        (["RUN", "--out", "taken"], ["taken exists", "--overwrite"]),
        (["RUN", "--out", "taken", "--overwrite"], ["taken holds something else than a policy"]),
        (["RUN", "--out", "no/where"], ["no", "not a folder"]),
        (["RUN", "--out", "p", "--seed-index", "2"], ["seed index is 2", "between 0 and 1"]),
        (["RUN", "--out", "p", "--seed-index", "-1"], ["seed index is -1", "between 0 and 1"]),
        (["RUN", "--out", "p", "--seed", "1"], ["--seed", "--seed-index"]),
    ],
)
def test_mistakes(trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]):
    Path("taken").mkdir()
    Path("taken/mine").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["export", *(str(trained) if a == "RUN" else a for a in arguments)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("memrl: ")
    assert error.count("\n") == 1, error
    for text in expected:
        assert text.lower() in error.lower()
    assert [str(path) for path in Path().rglob("*")] == ["taken", "taken/mine"]
