"""QEMU's migration stream, as far as a destination of postcopy needs it."""
