"""`bus demo`: the main job before your eyes, on a made-up district and real parts.

Everything that is shown is done by the commands that a district runs (`bus up`, `bus produce …`,
`bus consume …`), each as a process of its own; this package only calls them and tells what happens.
The vendor that gets webhooks is the one thing made for the show (`bus.demo.vendor`).
"""

from bus.demo.story import tell

__all__ = ["tell"]
