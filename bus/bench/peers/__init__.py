"""The same jobs as users of other libraries would write them; each runs in an environment of its
own, as it needs other versions of what the bus needs too. They are measured, never used."""
