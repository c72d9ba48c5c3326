"""Between a source and a destination that are both QEMUs: what passes is followed, and acted on."""
