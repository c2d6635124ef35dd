"""The shop's services; each runs in a process of its own: `python -m demo.shop gateway`."""
