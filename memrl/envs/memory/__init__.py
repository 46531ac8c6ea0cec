"""Tasks made to measure one thing: how long an agent remembers."""
