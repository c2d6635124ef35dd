"""A small real shop, watched by `apm_analytics.instrument`: services, load, faults on command."""
