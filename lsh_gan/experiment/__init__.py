"""A run: its configuration and checks, what it measures, and the sweep over both."""
