"""Decides what to send next and sends it."""
