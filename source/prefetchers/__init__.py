"""Prefetchers: each says in its own way what a source sends next when nobody waits.  Pure."""
