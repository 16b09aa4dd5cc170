"""Programs of vendors, for `bus vendors certify`."""
