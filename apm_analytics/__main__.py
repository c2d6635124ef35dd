"""`python -m apm_analytics` is `apm`."""

from apm_analytics.cli import main

main()
