"""What classical models say of a series: many filters and regressions, run at once and exact."""
