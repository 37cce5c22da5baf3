"""Introduces outbox, transports and wire to one another; open journey.py first."""
