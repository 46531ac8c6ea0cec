"""`python -m memrl` is the `memrl` command."""

from memrl.cli import main

main()
