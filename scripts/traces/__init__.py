"""Traces of guests' accesses: made of what other tools record, looked at, and cut."""
