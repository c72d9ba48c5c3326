"""Byte streams between the two ends: what they promise, over TCP, TLS and memory."""
