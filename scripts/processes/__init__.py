"""The processes that a command starts: sides, launchers, links, and how they end."""
