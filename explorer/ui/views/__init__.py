"""Turns numbers into what the tabs show."""
