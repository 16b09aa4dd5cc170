"""Vendors: what each may receive under its agreement, and how it receives exactly that.

    agreement file -> scope -> projection -> the vendor's own topics

A district keeps one TOML file for each agreement (`agreement`). The file compiles to one `Scope`
(`scope`): which students, which fields, which ids. Everything that goes to a vendor asks this one
object. `projection` keeps the vendor's topics current. The other modules check, apply, end and
prove agreements.
"""
