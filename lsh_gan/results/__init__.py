"""What a run leaves: rows, tables, plots and pages.

A work folder that is missing or damaged raises FileNotFoundError or ValueError, whose message is
one line for the user of the command line.
"""
