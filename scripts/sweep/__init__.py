"""Sweeps: many runs, one for each point of a grid of options, real or in virtual time."""
