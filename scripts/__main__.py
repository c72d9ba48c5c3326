"""`python -m scripts` is `midstream`."""

from scripts.cli import main

main()
