"""POPGym's tasks, with its own dynamics, rewards and lengths.

Source: Morad et al. 2023, "POPGym: Benchmarking Partially Observable Reinforcement Learning",
https://openreview.net/forum?id=chDrutUTs0K.
"""
