"""The same jobs as users of other libraries would write them.

Each runs in a separate environment, because it needs other versions of packages that the bus needs
too. These programs are only measured. The bus does not use them.
"""
