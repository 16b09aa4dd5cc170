"""The contract suite: what any source or product must pass to be accepted, also a third party's.

Needs `pytest` and `hypothesis` (the extra `schoolbus[dev]`). A product's test is

    from bus.contract import ProductContract
    from lunch import PRODUCT

    class TestLunch(ProductContract):
        product = PRODUCT

        def open(self, folder):                # a fresh delivery on this folder (or on a fake of
            return PRODUCT.open(…)             # the product); called again, as after a restart

        def state(self, folder):               # what the product has now: anything comparable
            return {…}

and a source's

    from bus.contract import SourceContract
    from oursis import SOURCE

    class TestOurSis(SourceContract):
        source = SOURCE
        marker = "Zebulon Marker"

        def extract(self, folder):             # a small extract, with somebody of that name
            …
"""

from bus.contract.example_records import a_record, records
from bus.contract.fake_messages import Sent
from bus.contract.product_contract import ProductContract
from bus.contract.source_contract import SourceContract

__all__ = ["ProductContract", "Sent", "SourceContract", "a_record", "records"]
