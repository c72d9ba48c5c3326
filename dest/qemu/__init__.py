"""A destination for a source that is a real QEMU."""
