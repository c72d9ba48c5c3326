"""The midstream command, launchers, fault injection and benchmarks: all that a person types."""
