"""Kernels over a batch that is split over devices; what is checked is in sharded_program.py."""

import os
import subprocess
import sys
from pathlib import Path

from memrl import kernels

HERE = Path(__file__).parent


def test_kernels_run_on_each_devices_rows():
    root = HERE.parents[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests"), str(HERE)]),
    }
    done = subprocess.run(
        [sys.executable, HERE / "sharded_program.py"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = {line.split(",")[0] for line in done.stdout.splitlines()}
    assert names == {name for name in kernels.__all__ if name != "NewtonOptions"}
