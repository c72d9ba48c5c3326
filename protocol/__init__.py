"""The agreements of both ends: geometry, messages, wire format, states, errors and limits."""
