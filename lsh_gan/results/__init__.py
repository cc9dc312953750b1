"""What a run leaves: rows, tables, plots and pages."""
