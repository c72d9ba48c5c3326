"""A real QEMU as the source: how it is started and driven, and what the other side then does."""
