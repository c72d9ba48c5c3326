"""Benchmarks and comparisons: what is measured, tabled and drawn."""
