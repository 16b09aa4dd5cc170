"""The deliveries that the products of the bus use."""
