"""The guest's program as machine code, and vCPUs that are threads which run it."""
