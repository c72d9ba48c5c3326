"""Links of a rate between two sides: of the kernel, and of a process that stands between."""
