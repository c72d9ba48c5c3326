"""What migrates: memory, vCPUs and their programs, and the kernel's ABI."""
