"""Results of runs: rows, tables, plots and pages.

A missing or damaged work folder raises FileNotFoundError or ValueError. The message is one line for
the user of the command line.
"""
