"""Runs `bus demo`: the main job on a made-up district, with real components.

Everything in the demo is done by the commands that a district runs (`bus up`, `bus produce …`, `bus
consume …`), each as a separate process. This package only calls them and reports what happens. The
only part made for the demo is the vendor that receives webhooks (`bus.demo.vendor`).
"""

from bus.demo.story import play

__all__ = ["play"]
