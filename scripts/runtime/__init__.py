"""This process: who started it, what interrupts it, what it loads, starts and leaves behind."""
