"""`python -m pgscale`."""

from pgscale.cli import main

main()
