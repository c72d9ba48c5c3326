"""What a person types: the midstream command, launchers, fault injection and benchmarks."""
