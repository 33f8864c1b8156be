"""Molmo: its configuration, its class and the layouts its weights are published in."""
