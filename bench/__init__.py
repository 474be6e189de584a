"""Measurements of the gateway: how fast beside others, what each step costs, and whether it stands what clients do.

Nothing here is part of the product. Everything speaks to loopback alone, and ends what it started.
"""
