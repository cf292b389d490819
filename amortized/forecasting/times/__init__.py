"""Times and values of series as users give them, on grids of equal steps."""
