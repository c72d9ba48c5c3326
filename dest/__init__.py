"""Takes what comes, assembles pages, places them and wakes the vCPUs that wait."""
