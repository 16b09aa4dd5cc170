"""The products that come with the bus, one module each."""
