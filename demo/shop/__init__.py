"""The shop's services; each runs in a separate process: `python -m demo.shop gateway`."""
