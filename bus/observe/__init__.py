"""Observation: what an operator sees of a running bus. None of it holds personal data.

telemetry  logs and traces
metrics    a consumer's Prometheus metrics
health     readiness, liveness and metrics over HTTP
doctor     what is wrong with a bus, and how to mend it
"""
