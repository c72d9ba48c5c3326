"""What both ends agree on: geometry, messages, wire format, states, errors and limits."""
