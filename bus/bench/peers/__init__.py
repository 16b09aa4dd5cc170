"""The same jobs as users of other libraries would write them, and as bare loops.

The program of another library runs in a separate environment, because it needs other versions of
packages that the bus needs too. What is here is only measured. The bus does not use it.
"""
