"""Reports: sections of numbers, warnings and figures, as data, as text and as one HTML page."""
