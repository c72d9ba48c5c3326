"""`midstream bench`: what midstream costs, each figure beside what limits it."""
