"""A migration to look at: what went when, over which channel, who waited and why."""
