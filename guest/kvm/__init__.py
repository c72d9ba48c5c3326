"""A guest that is a virtual machine: KVM vCPUs over the same memory, whose faults KVM takes."""
