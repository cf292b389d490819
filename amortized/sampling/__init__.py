"""Classical inference: samplers and filters, one a file, and the checks of their draws."""
