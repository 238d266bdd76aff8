"""Studies: tasks × methods × seeds, one record for each run."""
