"""Scripted fault injection: scenarios, the proxy between the two sides, what is expected."""
