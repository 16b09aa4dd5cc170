"""What the HTTP services of the bus share: their socket, TLS, signals and start."""
