"""The sources: connectors that read student information systems."""
