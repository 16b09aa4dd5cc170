"""Observation: what an operator sees of a running bus, without personal data.

telemetry  logs and traces
metrics    a consumer's Prometheus metrics
health     readiness, liveness and metrics over HTTP
doctor     finds what is wrong with a bus, and suggests how to correct it
"""
